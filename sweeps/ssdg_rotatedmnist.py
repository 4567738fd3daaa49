"""Few labels on RotatedMNIST: does FixMatch beat its labels, and does FixCLR (our reading) beat FixMatch?

Rows: ERM on the labelled images, FixMatch, FreeMatch, and each with FixCLR on top; and, as a table of its
own, ERM on every label (task domain_generalization), the ceiling. Real MNIST, targets 0 and 75, 10 labels
per class and domain, 3 trials, the network of two convolutions from scratch, Adam with learning rate 1e-3,
16 labelled and 16 unlabelled images per domain, 1,001 updates. The last model is reported: --selection
last.
Cost: 36 runs of 1,001 updates of 240 images (FixMatch).
"""

from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid

FREE = {"ema": 0.99}  # running means of 100 updates, as a run is short
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("semi_supervised", "ERM", {}),
    ("semi_supervised", "FixMatch", {}),
    ("semi_supervised", "FreeMatch", FREE),
    ("semi_supervised", "FixCLR", {"base": "FixMatch"}),
    ("semi_supervised", "FixCLR", {"base": "FreeMatch", **FREE}),
    ("domain_generalization", "ERM", {}),
]


def runs(data_dir: Path | None) -> list[RunSpec]:
    return [
        spec
        for task, method, chosen in ROWS
        for spec in grid(
            [method],
            ["RotatedMNIST"],
            envs=("0", "75"),
            data_dir=data_dir,
            task=task,
            backbone="two_conv",
            steps=1001,
            checkpoint_freq=250,
            hparams={"batch_size": 16, **chosen},
        )
    ]
