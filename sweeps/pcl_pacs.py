"""PCL (Yao et al., CVPR 2022), PACS table: each of A, C, P, S held out, 3 trials.

Rows: MixStyle, SagNet, CORAL, ERM and PCL, each raw and with SWAD; the published rows are MixStyle, SagNet,
CORAL, ERM + SWAD and PCL + SWAD. ResNet-50 with IMAGENET1K_V1 weights and frozen batch-norm statistics, Adam
with learning rate 5e-5, 32 images per domain. PCL as in its repository: 4,801 steps, evaluated every
300, variant official; the others as in SWAD's: 5,001 steps, evaluated every 100.
Cost: 60 runs of about 480,000 training images each.
"""

from pathlib import Path

from _pcl import table

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return table("PACS", data_dir, pcl=(4801, 300))
