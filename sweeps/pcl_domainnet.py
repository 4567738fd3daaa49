"""PCL (Yao et al., CVPR 2022), DomainNet table: each of the six domains held out, 3 trials.

Rows: MixStyle, SagNet, CORAL, ERM and PCL, each raw and with SWAD; the published rows are MixStyle, SagNet,
CORAL, ERM + SWAD and PCL + SWAD. ResNet-50 with IMAGENET1K_V1 weights and frozen batch-norm statistics, Adam
with learning rate 5e-5, 32 images per domain. PCL as in its repository: 15,001 steps, evaluated every
3,000, variant official; the others as in SWAD's: 15,001 steps, evaluated every 500.
PCL's repository has no head for DomainNet; ours is the method's default. Its batch there is 24 per domain.
Cost: 90 runs of about 1.8 (PCL) or 2.4 million training images each.
"""

from pathlib import Path

from _pcl import table

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return table("DomainNet", data_dir, pcl=(15001, 3000), others=(15001, 500), batch_size=24)
