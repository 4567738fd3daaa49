"""The rows of the tables with few labels; FixCLR (Son et al., MIPR 2025, arXiv 2506.20841) is our reading."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid

SUPERVISED = ("ERM", "CORAL", "PCL")
BASES = (
    *("FixMatch", "FlexMatch", "FreeMatch", "SoftMatch"),
    *("DeFixMatch", "DebiasPL", "MeanTeacher", "StyleMatch"),
)
RUNNING_MEANS = ("FreeMatch", "SoftMatch", "DebiasPL")
SSDG = {
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 0.01,
    "featurizer_lr": 0.3,
    "lr_schedule": "cosine_epoch",
}
"""The optimizer of the semi-supervised domain generalization benchmark (KaiyangZhou/ssdg-benchmark)."""


def fixclr(
    dataset: str,
    data_dir: Path | None,
    hparams: dict[str, Any],
    bases: Iterable[str] = BASES,
    supervised: Iterable[str] = SUPERVISED,
    labels: Iterable[int] = (5, 10),
    short: bool = False,
    **fixed: Any,
) -> list[RunSpec]:
    """Methods on the labelled images alone, then each base without and with FixCLR on top.

    short: running means over some 100 updates, not 1,000. fixed: as in ``grid``.
    """
    memory = {base: {"ema": 0.99} if short and base in RUNNING_MEANS else {} for base in bases}
    rows: list[tuple[str, dict[str, Any]]] = [(method, {}) for method in supervised]
    rows += memory.items()
    rows += [("FixCLR", {"base": base, **own}) for base, own in memory.items()]
    return [
        spec
        for count, (method, own) in product(labels, rows)
        for spec in grid(
            [method],
            [dataset],
            data_dir=data_dir,
            task="semi_supervised",
            labels_per_class=count,
            hparams={**hparams, **own},
            **fixed,
        )
    ]


def fixclr_on_images(dataset: str, data_dir: Path | None, steps: int) -> list[RunSpec]:
    """ResNet-18 as in the benchmark, with ImageNet weights and from scratch."""
    return [
        spec
        for pretrained in ("IMAGENET1K_V1", "none")
        for spec in fixclr(
            dataset,
            data_dir,
            SSDG,
            backbone="resnet18",
            pretrained=pretrained,
            freeze_bn=False,
            steps=steps,
            checkpoint_freq=steps // 4,
        )
    ]


def small_table(dataset: str, data_dir: Path | None, hparams: dict[str, Any], **fixed: Any) -> list[RunSpec]:
    """ERM on 10 labels, FixMatch, FreeMatch, each with FixCLR; ERM on every label; trial after trial."""
    rows = fixclr(dataset, data_dir, hparams, ("FixMatch", "FreeMatch"), ("ERM",), (10,), short=True, **fixed)
    rows += grid(["ERM"], [dataset], data_dir=data_dir, hparams=hparams, **fixed)
    return sorted(rows, key=lambda spec: spec.trial_seed)  # a whole table after every trial
