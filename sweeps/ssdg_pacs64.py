"""Few labels on PACS at 64 px from scratch: FixMatch and FreeMatch, without and with FixCLR (our reading).

Rows: ERM on the labelled images, FixMatch, FreeMatch, and each with FixCLR on top; and, as a table of its
own, ERM on every label (task domain_generalization), the ceiling. Each domain held out, 10 labels per class
and domain, 3 trials, ResNet-18 from scratch, Adam with learning rate 1e-3, 16 labelled and 16 unlabelled
images per domain, 3,001 updates. The last model is reported: --selection last.
Cost: 72 runs of 3,001 updates of up to 144 images, for a GPU.
"""

from pathlib import Path

from _few_labels import fixclr

from dgbench.spec import RunSpec
from dgbench.sweep import grid

SETTING = {
    "backbone": "resnet18",
    "pretrained": "none",
    "image_size": 64,
    "precision": "bf16",
    "steps": 3001,
    "checkpoint_freq": 500,
}
HPARAMS = {"batch_size": 16, "lr": 1e-3}


def runs(data_dir: Path | None) -> list[RunSpec]:
    rows = fixclr("PACS", data_dir, HPARAMS, ("FixMatch", "FreeMatch"), ("ERM",), (10,), **SETTING)
    return rows + grid(["ERM"], ["PACS"], data_dir=data_dir, hparams=HPARAMS, **SETTING)
