"""PCL (Yao et al., CVPR 2022), OfficeHome table: each of A, C, P, R held out, 3 trials.

Rows: MixStyle, SagNet, CORAL, ERM and PCL, each raw and with SWAD; the published rows are MixStyle, SagNet,
CORAL, ERM + SWAD and PCL + SWAD. ResNet-50 with IMAGENET1K_V1 weights and frozen batch-norm statistics, Adam
with learning rate 5e-5, 32 images per domain. PCL as in its repository: 3,001 steps, evaluated every
300, variant official; the others as in SWAD's: 5,001 steps, evaluated every 100.
Cost: 60 runs of about 290,000 (PCL) or 480,000 training images each.
"""

from pathlib import Path

from _pcl import table

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return table("OfficeHome", data_dir, pcl=(3001, 300))
