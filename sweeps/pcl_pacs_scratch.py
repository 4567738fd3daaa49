"""PACS without pretraining, a setting that the PCL paper names beside its tables; no published numbers.

Rows: ERM, CORAL, SagNet, MixStyle, PCL, each raw and with SWAD. ResNet-18 from scratch at 128 px, Adam with
learning rate 1e-3, 32 images per domain, 5,001 steps, evaluated every 300, 3 trials.
Cost: 60 runs of about 480,000 training images; for a GPU.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid


def runs(data_dir: Path | None) -> list[RunSpec]:
    return grid(
        ["ERM", "CORAL", "SagNet", "MixStyle", "PCL"],
        ["PACS"],
        data_dir=data_dir,
        averaging=("swad",),
        backbone="resnet18",
        pretrained="none",
        image_size=128,
        precision="bf16",
        hparams={"lr": 1e-3},
    )
