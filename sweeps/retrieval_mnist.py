"""Retrieval without labels on MNIST: 0 <> 60 degrees, and MNIST <> MNIST on coloured noise. No paper's table.

Rows: untrained, ID, ProtoNCE, CDS, PCS, UCDIR, and UCDIR with fewer terms, as in its Table 3. 1,000 random
images of a domain, --split official (scored on the images trained on) and held_out, 3 trials; the network
two_conv from random weights; the same 300 updates, rows of a batch, views, optimizer and learning rate for
all rows, the largest tried at which ID does not collapse. UCDIR's weights are those of its seven classes of
DomainNet; its momentum network and ProtoNCE's follow ten times faster than as published, as runs are short.
Cost: 108 runs, 35 seconds (ID) to 75 (PCS) of one core; 90 minutes of one core in all.
"""

from pathlib import Path

from _ucdir import FAST, OFF, SHORT

from dgbench.spec import SPLITS, RunSpec
from dgbench.sweep import grid

PAIRS = {"RotatedMNIST": ("0", "60"), "NoisyMNIST": ("mnist", "noise")}
ROWS = (
    *(("ID", {}), ("ProtoNCE", FAST), ("CDS", {}), ("PCS", {}), ("UCDIR", SHORT)),
    *(("UCDIR", SHORT | off) for off in OFF),
)
IMAGES, BATCH, EPOCHS, LR = 1000, 64, 20, 1e-4


def runs(data_dir: Path | None) -> list[RunSpec]:
    epoch = IMAGES // BATCH
    rows = [("Untrained", {}, 1)]
    rows += [(method, {"lr": LR, "batch_size": BATCH} | own, EPOCHS * epoch) for method, own in ROWS]
    planned = [
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
    return sorted(planned, key=lambda run: run.trial_seed)  # a trial is whole before the next
