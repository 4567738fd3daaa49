"""DomainBed (Gulrajani and Lopez-Paz, ICLR 2021), ColoredMNIST and RotatedMNIST tables.

Rows: DomainBed's 14 published methods at their default hyper-parameters, 3 trials, each domain held out;
DomainBed's own numbers are the best of 20 random draws. MNIST CNN, 64 images per domain, 5,001 steps,
evaluated every 100.
Cost: 126 and 252 runs, each some 10 minutes of one core (ERM; methods with more passes cost more).
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

PUBLISHED = (
    *("ERM", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD"),
    *("DANN", "CDANN", "MTL", "SagNet", "ARM", "VREx", "RSC"),
)


def runs(data_dir: Path | None) -> list[RunSpec]:
    return grid(PUBLISHED, ["ColoredMNIST", "RotatedMNIST"], data_dir=data_dir)
