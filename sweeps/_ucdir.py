"""The protocol of UCDIR's tables (Hu and Lee, ECCV 2022): one run of each pair of domains, 200 epochs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid, steps_of_epochs

COMPARISON: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Untrained", {"steps": 1}),
    *((method, {}) for method in ("ID", "ProtoNCE", "CDS", "PCS", "UCDIR")),
)
DOMAINNET_PAIRS = (
    ("clipart", "sketch"),
    ("infograph", "real"),
    ("infograph", "sketch"),
    ("clipart", "painting"),
    ("painting", "quickdraw"),
    ("quickdraw", "real"),
)
EPOCHS, BATCH = 200, 64
OFF = (
    {"cw_weight": 0.0, "se_weight": 0.0, "dd_weight": 0.0},
    {"se_weight": 0.0, "dd_weight": 0.0},
    {"dd_weight": 0.0},
)
"""Table 3's rows before the full model: IW alone, then with CW, then with SE."""
FAST = {"key_momentum": 0.99}
SHORT = FAST | {"cw_weight": 1.0, "se_weight": 0.5, "dd_weight": 0.1, "se_temperature": 0.1}
"""UCDIR in a short run: its weights for seven classes of DomainNet, and a key network that follows faster."""


def protocol(
    rows: Sequence[tuple[str, dict[str, Any]]],
    dataset: str,
    pairs: Iterable[tuple[str, str]],
    data_dir: Path | None,
) -> list[RunSpec]:
    """Of each pair, the rows: a method, and fields of ``RunSpec`` in place of the protocol's."""
    planned = []
    for pair in pairs:
        steps, epoch = steps_of_epochs(dataset, pair, EPOCHS, BATCH, data_dir)
        values = {"steps": steps, "checkpoint_freq": epoch, "pretrained": "moco_v2_800ep", "freeze_bn": False}
        for method, own in rows:
            planned += grid(
                [method],
                [dataset],
                n_trials=1,
                data_dir=data_dir,
                envs=pair,
                task="retrieval",
                **{**values, **own},
            )
    return planned
