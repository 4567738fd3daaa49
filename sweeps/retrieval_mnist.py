"""Retrieval without labels on MNIST: 0 <> 60 degrees, and MNIST <> MNIST on coloured noise. No paper's table.

Rows: untrained, ID, ProtoNCE, CDS, PCS, UCDIR, and UCDIR with fewer terms, as in its Table 3. 2,000 random
images of a domain, --split official (scored on the images trained on) and held_out, 3 trials; the network
two_conv from random weights, the same updates, rows, views, optimizer and learning rate for all rows. The
momentum network of UCDIR and ProtoNCE follows ten times faster than as published, as runs are short.
Cost: 108 runs of about half a minute of one core.
"""

from pathlib import Path

from dgbench.spec import SPLITS, RunSpec
from dgbench.sweep import grid

PAIRS = {"RotatedMNIST": ("0", "60"), "NoisyMNIST": ("mnist", "noise")}
FAST = {"key_momentum": 0.99}
ROWS = (
    *(("ID", {}), ("ProtoNCE", FAST), ("CDS", {}), ("PCS", {}), ("UCDIR", FAST)),
    ("UCDIR", FAST | {"cw_weight": 0.0, "se_weight": 0.0, "dd_weight": 0.0}),
    ("UCDIR", FAST | {"se_weight": 0.0, "dd_weight": 0.0}),
    ("UCDIR", FAST | {"dd_weight": 0.0}),
)
IMAGES, BATCH, EPOCHS, LR = 2000, 64, 10, 1e-4


def runs(data_dir: Path | None) -> list[RunSpec]:
    epoch = IMAGES // BATCH
    rows = [("Untrained", {}, 1)]
    rows += [(method, {"lr": LR, "batch_size": BATCH} | own, EPOCHS * epoch) for method, own in ROWS]
    return [
        run
        for dataset, pair in PAIRS.items()
        for split in SPLITS
        for method, hparams, steps in rows
        for run in grid(
            [method],
            [dataset],
            data_dir=data_dir,
            envs=pair,
            task="retrieval",
            split=split,
            max_images=IMAGES,
            steps=steps,
            checkpoint_freq=EPOCHS * epoch,
            backbone="two_conv",
            precision="bf16",
            hparams=hparams,
        )
    ]
