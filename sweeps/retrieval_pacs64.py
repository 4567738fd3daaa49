"""Retrieval without labels on PACS at 64 pixels: photo <> art painting, photo <> sketch. No paper's table.

Rows: untrained, ID, ProtoNCE, CDS, PCS, UCDIR. 1,000 random images of a domain, which are also scored
(--split official), one trial; ResNet-18 from random weights, 64 images of each domain, 10 epochs, Adam with
learning rate 1e-3 for all rows. UCDIR's weights are those of its seven classes of DomainNet; its momentum
network and ProtoNCE's follow ten times faster than as published, as runs are short.
Cost: 12 runs of 150 updates, 2 minutes (ID) to 3 (UCDIR) of one core; 25 minutes of one core in all.
"""

from pathlib import Path

from _ucdir import FAST, SHORT

from dgbench.hparams import RETRIEVAL_SCRATCH, defaults
from dgbench.spec import RunSpec
from dgbench.sweep import grid

PAIRS = (("art_painting", "photo"), ("photo", "sketch"))
ROWS = {"ID": {}, "ProtoNCE": FAST, "CDS": {}, "PCS": {}, "UCDIR": SHORT}
IMAGES, BATCH, EPOCHS = 1000, 64, 10


def runs(data_dir: Path | None) -> list[RunSpec]:
    epoch = IMAGES // BATCH
    shared = defaults(RETRIEVAL_SCRATCH) | {"batch_size": BATCH}
    rows = [("Untrained", {}, 1)]
    rows += [(method, shared | own, EPOCHS * epoch) for method, own in ROWS.items()]
    return [
        run
        for pair in PAIRS
        for method, hparams, steps in rows
        for run in grid(
            [method],
            ["PACS"],
            n_trials=1,
            data_dir=data_dir,
            envs=pair,
            task="retrieval",
            max_images=IMAGES,
            steps=steps,
            checkpoint_freq=EPOCHS * epoch,
            backbone="resnet18",
            pretrained="none",
            image_size=64,
            precision="bf16",
            hparams=hparams,
        )
    ]
