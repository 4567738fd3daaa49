"""UCDIR (Hu and Lee, ECCV 2022), Table 3: the terms of its loss, seven classes of DomainNet, 6 pairs.

Rows: IW alone (all weights 0), with CW (se_weight, dd_weight 0), with SE (dd_weight 0), and the full model;
the protocol is that of ucdir_table2, and the last row's runs are its own. --selection oracle_epoch is the
paper's rule, the best epoch by the test labels; the default is the last.
Cost: 24 runs of about 1,000,000 images in two views.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid, steps_of_epochs

PAIRS = (
    ("clipart", "sketch"),
    ("infograph", "real"),
    ("infograph", "sketch"),
    ("clipart", "painting"),
    ("painting", "quickdraw"),
    ("quickdraw", "real"),
)
OFF = (
    {"cw_weight": 0.0, "se_weight": 0.0, "dd_weight": 0.0},
    {"se_weight": 0.0, "dd_weight": 0.0},
    {"dd_weight": 0.0},
    {},
)
EPOCHS, BATCH = 200, 64


def runs(data_dir: Path | None) -> list[RunSpec]:
    planned = []
    for pair in PAIRS:
        steps, epoch = steps_of_epochs("DomainNet7", pair, EPOCHS, BATCH, data_dir)
        for off in OFF:
            planned += grid(
                ["UCDIR"],
                ["DomainNet7"],
                n_trials=1,
                data_dir=data_dir,
                envs=pair,
                task="retrieval",
                steps=steps,
                checkpoint_freq=epoch,
                pretrained="moco_v2_800ep",
                freeze_bn=False,
                hparams=off,
            )
    return planned
