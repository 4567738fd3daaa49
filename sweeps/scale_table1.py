"""SCALE (Li et al., 2024), Table 1: its terms one by one on Office-Home's 12 pairs, three ResNets, 3 trials.

Rows, in the paper's order: CE; CE + SSL; CE + Dist; CE + Reg; CE + SSL + Dist; CE + Dist + Reg; all. The
paper prints CE twice with different numbers; the second is taken to be CE + SSL, which is missing there. Its
"ResNet-108" and "ResNet-150" are taken to be ResNet-101 and ResNet-152. The table has averages over the pairs
alone, in percent: ResNet-50 61.0, 60.0, 66.0, 61.5, 74.0, 70.0, 75.5; ResNet-101 70.0, 70.5, 75.0, 71.5,
86.0, 81.0, 84.5; ResNet-152 72.0, 73.5, 78.0, 75.5, 87.5, 84.5, 85.0. Training is that of scale_table2.
Cost: 756 runs of 10,001 updates on 64 images or more; for GPUs.
"""

from itertools import product
from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

ROWS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1))  # SSL, Dist, Reg
BACKBONES = ("resnet50", "resnet101", "resnet152")


def runs(data_dir: Path | None) -> list[RunSpec]:
    planned = []
    for backbone, (ssl, dist, reg) in product(BACKBONES, ROWS):
        planned += grid(
            ["SCALE"],
            ["OfficeHome"],
            data_dir=data_dir,
            task="domain_adaptation",
            pairs=True,
            backbone=backbone,
            steps=10001,
            checkpoint_freq=500,
            freeze_bn=False,
            hparams={"unlabelled_weight": float(ssl), "cl_weight": float(dist), "reg_weight": float(reg)},
        )
    return planned
