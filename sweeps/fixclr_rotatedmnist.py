"""FixCLR (Son et al., MIPR 2025, arXiv 2506.20841), our reading of it, on RotatedMNIST.

Rows: each domain held out, 3 trials; ERM, CORAL and PCL on the labelled images; eight methods with
pseudo-labels, without and with FixCLR on top; tables: 5 or 10 labels per class and domain. The
paper's own numbers and settings are not known to us.
Six angles, the network of two convolutions from scratch, Adam with learning rate 1e-3, 16 labelled and 16
unlabelled images per domain, bf16, 1,001 updates; running means over some 100 of them. The last model is
reported: --selection last.
Cost: 684 runs of 1,001 updates of up to 240 images, some 3 minutes of one core each.
"""

from pathlib import Path

from _few_labels import fixclr

from dgbench.spec import RunSpec

TABLE = ("--selection", "last")


def runs(data_dir: Path | None) -> list[RunSpec]:
    return fixclr(
        "RotatedMNIST",
        data_dir,
        {"batch_size": 16},
        short=True,
        backbone="two_conv",
        precision="bf16",
        steps=1001,
        checkpoint_freq=500,
    )
