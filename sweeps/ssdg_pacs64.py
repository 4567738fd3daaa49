"""Few labels on PACS at 64 px from scratch: FixMatch and FreeMatch, without and with FixCLR (our reading).

Rows: ERM on the labelled images, FixMatch, FreeMatch, and each with FixCLR on top; and, as a table of its
own, ERM on every label (task domain_generalization), the ceiling. Each domain held out, 10 labels per class
and domain, 3 trials, ResNet-18 from scratch, Adam with learning rate 1e-3, 16 labelled and 16 unlabelled
images per domain, 3,001 updates. The last model is reported: --selection last.
Cost: 72 runs of 3,001 updates of 144 images (FixMatch); for a GPU.
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
            ["PACS"],
            data_dir=data_dir,
            task=task,
            backbone="resnet18",
            pretrained="none",
            image_size=64,
            steps=3001,
            checkpoint_freq=500,
            hparams={"batch_size": 16, "lr": 1e-3, **chosen},
        )
    ]
