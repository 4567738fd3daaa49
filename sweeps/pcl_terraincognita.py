"""PCL (Yao et al., CVPR 2022), TerraIncognita table: each of L100, L38, L43, L46 held out, 3 trials.

Rows: ERM, ERM + SWAD, PCL, PCL + SWAD (the published PCL row). ResNet-50 with IMAGENET1K_V1 weights and
frozen batch-norm statistics, Adam 5e-5, 32 images per domain. ERM as in SWAD's repository: 5,001 steps,
evaluated every 100; PCL as in its own: 5,001 steps, evaluated every 1000, variant official.
Cost: 24 runs of about 480,000 training images; `make table` and --dry_run estimate it for a machine.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid


def runs(data_dir: Path | None) -> list[RunSpec]:
    erm = grid(
        ["ERM"], ["TerraIncognita"], data_dir=data_dir, averaging=("swad",), steps=5001, checkpoint_freq=100
    )
    pcl = grid(
        ["PCL"],
        ["TerraIncognita"],
        data_dir=data_dir,
        averaging=("swad",),
        steps=5001,
        checkpoint_freq=1000,
        hparams={"variant": "official"},
    )
    return erm + pcl
