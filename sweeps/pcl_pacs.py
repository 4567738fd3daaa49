"""PCL (Yao et al., CVPR 2022), PACS table: each of A, C, P, S held out, 3 trials.

Rows: ERM, ERM + SWAD, PCL, PCL + SWAD (the published PCL row). ResNet-50 with IMAGENET1K_V1 weights and
frozen batch-norm statistics, Adam 5e-5, 32 images per domain. ERM as in SWAD's repository: 5,001 steps,
evaluated every 100; PCL as in its own: 4,801 steps, evaluated every 300, variant official.
Cost: 24 runs of about 480,000 training images; `make table` and --dry_run estimate it for a machine.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid


def runs(data_dir: Path | None) -> list[RunSpec]:
    erm = grid(["ERM"], ["PACS"], data_dir=data_dir, averaging=("swad",), steps=5001, checkpoint_freq=100)
    pcl = grid(
        ["PCL"],
        ["PACS"],
        data_dir=data_dir,
        averaging=("swad",),
        steps=4801,
        checkpoint_freq=300,
        hparams={"variant": "official"},
    )
    return erm + pcl
