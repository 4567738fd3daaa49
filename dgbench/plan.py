"""The planned runs of a sweep: ``sweep.json`` in its folder."""

import json
from collections.abc import Iterable
from pathlib import Path

from . import files
from .errors import UsageError
from .spec import RunSpec


def read_plan(folder: Path) -> list[RunSpec]:
    """The planned runs of a sweep folder; empty if there is none."""
    path = folder / "sweep.json"
    if not path.exists():
        return []
    try:
        return [RunSpec.from_dict(values) for values in json.loads(path.read_text())["specs"]]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is damaged; remove it and launch again: runs that are done stay") from None


def plan(folder: Path, runs: Iterable[RunSpec]) -> list[RunSpec]:
    """Add runs to a sweep folder's plan, each once; returns the whole plan."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.held(folder / "sweep.json"):  # two launches may plan at once
        known = {spec.run_id(): spec for spec in read_plan(folder)}
        merged = known | {spec.run_id(): spec for spec in runs}
        if merged.keys() != known.keys():
            text = ",\n".join(json.dumps(spec.to_dict()) for spec in merged.values())
            files.replace_text(folder / "sweep.json", '{"specs": [\n' + text + "\n]}\n")
    return list(merged.values())
