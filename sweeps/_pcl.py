"""The tables of PCL (Yao et al., CVPR 2022): ImageNet weights, each method raw and with SWAD, 3 trials."""

from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid


def table(
    dataset: str,
    data_dir: Path | None,
    pcl: tuple[int, int],
    others: tuple[int, int] = (5001, 100),
    **pcl_hparams: Any,
) -> list[RunSpec]:
    """pcl, others: (steps, steps between evaluations) of PCL's repository and of SWAD's."""

    def rows(methods: list[str], length: tuple[int, int], hparams: dict[str, Any]) -> list[RunSpec]:
        return grid(
            methods,
            [dataset],
            data_dir=data_dir,
            averaging=("swad",),
            steps=length[0],
            checkpoint_freq=length[1],
            hparams=hparams,
        )

    planned = rows(["MixStyle", "SagNet", "CORAL", "ERM"], others, {})
    return planned + rows(["PCL"], pcl, {"variant": "official", **pcl_hparams})
