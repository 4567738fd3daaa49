"""A bench beside an earlier one: ``make bench BASELINE=file.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError

RATES = ("images/s", "%")
"""Units of which more is better."""


def read(path: Path) -> dict[str, float]:
    """{name: ratio} of a file that ``--output`` wrote."""
    try:
        return {row["name"]: float(row["ratio"]) for row in json.loads(path.read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no ratios ({error}); give a file that --output wrote") from None


def compared(
    rows: Sequence[Mapping[str, Any]], before: Mapping[str, float], tolerance: float
) -> list[dict[str, Any]]:
    """The rows with the earlier ratio and what has become of it; "" where there was none."""
    return [
        {**row, "before": before.get(row["name"]), "change": _change(row, before, tolerance)} for row in rows
    ]


def _change(row: Mapping[str, Any], before: Mapping[str, float], tolerance: float) -> str:
    if row["name"] not in before:
        return ""
    cost, earlier = row["ratio"], before[row["name"]]
    if row["unit"] in RATES:
        cost, earlier = earlier, cost
    if cost > earlier * (1 + tolerance):
        return "worse"
    return "better" if earlier > cost * (1 + tolerance) else "same"
