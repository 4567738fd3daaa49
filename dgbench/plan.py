"""The planned runs of a sweep: ``sweep.json`` in its folder."""

import json
from collections.abc import Iterable
from pathlib import Path

from . import files
from .errors import UsageError
from .spec import RunSpec

PLAN = "sweep.json"


def read_plan(folder: Path) -> list[RunSpec]:
    """The planned runs of a sweep folder; empty if there is none."""
    path = folder / PLAN
    if not path.exists():
        return []
    try:
        return [RunSpec.from_dict(values) for values in json.loads(path.read_text())["specs"]]
    except (ValueError, KeyError, TypeError) as error:
        told = f"{path} is damaged; remove it and launch again: runs that are done stay"
        raise UsageError(f"{told} (no plan of a sweep: {error})") from None


def plan(folder: Path, runs: Iterable[RunSpec]) -> list[RunSpec]:
    """Add runs to a sweep folder's plan, each once; returns the whole plan."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.held(folder / PLAN):  # two launches may plan at once
        known = {spec.run_id(): spec for spec in read_plan(folder)}
        merged = known | {spec.run_id(): spec for spec in runs}
        if merged.keys() != known.keys():
            text = ",\n".join(json.dumps(spec.to_dict()) for spec in merged.values())
            files.replace_text(folder / PLAN, '{"specs": [\n' + text + "\n]}\n")
    return list(merged.values())
