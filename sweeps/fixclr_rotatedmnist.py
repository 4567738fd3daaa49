"""FixCLR (Son et al., MIPR 2025, arXiv 2506.20841), our reading of it, on RotatedMNIST.

Rows: ERM on the labelled images, seven methods with pseudo-labels and StyleMatch, each without and with
FixCLR on top; tables: 5 or 10 labels per class and domain. Six angles, each held out, 3 trials, the network
of two convolutions from scratch, Adam with learning rate 1e-3, 16 labelled and 16 unlabelled images per
domain, 1,001 updates; running means with 0.99, as a run is short. The last model is reported: --selection
last.
Cost: 612 runs of 1,001 updates of 240 images (FixMatch).
"""

from itertools import product
from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

BASES: dict[str, dict[str, float]] = {
    "FixMatch": {},
    "FlexMatch": {},
    "FreeMatch": {"ema": 0.99},
    "SoftMatch": {"ema": 0.99},
    "DeFixMatch": {},
    "DebiasPL": {"ema": 0.99},
    "MeanTeacher": {},
    "StyleMatch": {},
}


def runs(data_dir: Path | None) -> list[RunSpec]:
    rows = [("ERM", {}), *BASES.items(), *(("FixCLR", {"base": base, **hp}) for base, hp in BASES.items())]
    return [
        spec
        for labels, (method, chosen) in product((5, 10), rows)
        for spec in grid(
            [method],
            ["RotatedMNIST"],
            data_dir=data_dir,
            task="semi_supervised",
            labels_per_class=labels,
            backbone="two_conv",
            steps=1001,
            checkpoint_freq=250,
            hparams={"batch_size": 16, **chosen},
        )
    ]
