"""UCDIR (Hu and Lee, ECCV 2022), Table 1: Office-Home, 6 pairs, P@1, P@5, P@15.

Rows: untrained, ID, ProtoNCE, CDS, PCS and UCDIR, one run each as published. The official protocol: ResNet-50
and head from MoCo-v2's 800 epochs, nothing frozen, 200 epochs of the larger domain, 64 images of each, SGD
with learning rate 2e-4 and a cosine per epoch, evaluated on the training images after each epoch. How the
paper trained the other rows is not known; here they are trained as UCDIR is. --selection oracle_epoch is the
paper's rule, the best epoch by the test labels; the default is the last.
Cost: 30 runs of about 1,760,000 images, two views each for UCDIR and ProtoNCE.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid, steps_of_epochs

PAIRS = (
    ("Art", "Real World"),
    ("Art", "Product"),
    ("Clipart", "Real World"),
    ("Product", "Real World"),
    ("Clipart", "Product"),
    ("Art", "Clipart"),
)
METHODS = ("ID", "ProtoNCE", "CDS", "PCS", "UCDIR")
EPOCHS, BATCH = 200, 64


def runs(data_dir: Path | None) -> list[RunSpec]:
    planned = []
    for pair in PAIRS:
        steps, epoch = steps_of_epochs("OfficeHome", pair, EPOCHS, BATCH, data_dir)
        for methods, length in ((("Untrained",), 1), (METHODS, steps)):
            planned += grid(
                methods,
                ["OfficeHome"],
                n_trials=1,
                data_dir=data_dir,
                envs=pair,
                task="retrieval",
                steps=length,
                checkpoint_freq=epoch,
                pretrained="moco_v2_800ep",
                freeze_bn=False,
            )
    return planned
