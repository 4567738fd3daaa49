"""Domain adaptation on Office-31: each of amazon, dslr, webcam as source of each other, 3 trials.

Rows and training are those of scale_table2, with 5,001 updates. The SCALE paper has no numbers on this data.
Cost: 162 runs of 5,001 updates on 64 images or more; for GPUs.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid, load_file


def runs(data_dir: Path | None) -> list[RunSpec]:
    planned = []
    for method, hparams in {spec.algorithm: spec.hparams for spec in load_file("scale_table2")}.items():
        planned += grid(
            [method],
            ["Office31"],
            data_dir=data_dir,
            task="domain_adaptation",
            pairs=True,
            steps=5001,
            checkpoint_freq=500,
            freeze_bn=False,
            hparams=hparams,
        )
    return planned
