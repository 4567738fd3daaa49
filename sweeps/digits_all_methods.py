"""Every method for domain generalization on the embedded digits, rotated and coloured: do they all run?

1 trial, every target, default hyper-parameters, 301 steps. No paper's table; a check that a researcher can
repeat without a download.
Cost: 9 runs a method, some seconds each.
"""

from pathlib import Path

from dgbench import registry
from dgbench.spec import RunSpec
from dgbench.sweep import grid


def runs(data_dir: Path | None) -> list[RunSpec]:
    methods = [
        name
        for name in registry.names("algorithms")
        if "domain_generalization" in registry.find("algorithms", name).tasks  # type: ignore[attr-defined]
    ]
    return grid(methods, ["RotatedDigits", "ColoredDigits"], n_trials=1)
