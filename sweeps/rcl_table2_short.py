"""RCL's Table 2 in an afternoon: the runs of rcl_table2, each row once, five rows thrice.

Thrice: ERM, SD, and RCL with m = 0.2, 0.9 and infinity (rcl_margin 0). No run is shorter than there.
Cost: 25 runs, 4.5 hours of one core in bf16 (--precision bf16).
"""

from pathlib import Path

import rcl_table2

from dgbench.spec import RunSpec

TABLE = rcl_table2.TABLE
THRICE = ("ERM", "SD")
MARGINS = (0.2, 0.9, 0.0)


def runs(data_dir: Path | None) -> list[RunSpec]:
    def wanted(spec: RunSpec) -> bool:
        of_five = spec.algorithm in THRICE or spec.hparams.get("rcl_margin") in MARGINS
        return spec.trial_seed < (3 if of_five and spec.dataset == "MNIST_MP" else 1)

    return [spec for spec in rcl_table2.runs(data_dir) if wanted(spec)]
