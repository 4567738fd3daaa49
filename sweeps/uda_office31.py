"""Domain adaptation on Office-31: each of amazon, dslr, webcam as source of each other, 3 trials.

Rows and training are those of scale_table2, with 5,001 updates. The SCALE paper has no numbers on this data.
Cost: 162 runs of 5,001 updates on 64 images or more; for GPUs.
"""

from pathlib import Path

from _adaptation import office

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return office("Office31", data_dir, steps=5001)
