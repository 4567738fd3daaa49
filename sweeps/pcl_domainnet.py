"""PCL (Yao et al., CVPR 2022), DomainNet table: each of the six domains held out, 3 trials.

Rows: ERM, ERM + SWAD, PCL, PCL + SWAD (the published PCL row). ResNet-50 with IMAGENET1K_V1 weights and
frozen batch-norm statistics, Adam 5e-5, 32 images per domain. ERM as in SWAD's repository: 15,001 steps,
evaluated every 500; PCL as in its own: 15,001 steps, evaluated every 3000, variant official.
The PCL repository defines no head for DomainNet; ours is the stated default. Batch 24 per domain for PCL.
Cost: 36 runs of 1.8 to 2.4 million training images; `make table` and --dry_run estimate it for a machine.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid


def runs(data_dir: Path | None) -> list[RunSpec]:
    erm = grid(
        ["ERM"], ["DomainNet"], data_dir=data_dir, averaging=("swad",), steps=15001, checkpoint_freq=500
    )
    pcl = grid(
        ["PCL"],
        ["DomainNet"],
        data_dir=data_dir,
        averaging=("swad",),
        steps=15001,
        checkpoint_freq=3000,
        hparams={"variant": "official", "batch_size": 24},
    )
    return erm + pcl
