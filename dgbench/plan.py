"""The planned runs of a sweep: ``sweep.json`` in its folder."""

import json
from collections.abc import Iterable
from pathlib import Path

from . import files
from .spec import RunSpec


def read_plan(folder: Path) -> list[RunSpec]:
    """The planned runs of a sweep folder; empty if there is none."""
    path = folder / "sweep.json"
    if not path.exists():
        return []
    return [RunSpec.from_dict(values) for values in json.loads(path.read_text())["specs"]]


def plan(folder: Path, runs: Iterable[RunSpec]) -> list[RunSpec]:
    """Add runs to a sweep folder's plan, each once; returns the whole plan."""
    known = {spec.run_id(): spec for spec in read_plan(folder)}
    merged = known | {spec.run_id(): spec for spec in runs}
    if merged.keys() != known.keys():
        folder.mkdir(parents=True, exist_ok=True)
        text = ",\n".join(json.dumps(spec.to_dict()) for spec in merged.values())
        files.replace_text(folder / "sweep.json", '{"specs": [\n' + text + "\n]}\n")
    return list(merged.values())
