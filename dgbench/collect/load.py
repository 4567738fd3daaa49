"""The runs of a sweep's folder, ours or DomainBed's, in one shape."""

import contextlib
import gzip
import os
import zlib
from collections.abc import Collection
from pathlib import Path

import orjson

from .. import records
from ..errors import UsageError
from ..plan import PLAN, read_plan
from ..records import Record
from ..spec import RunSpec
from . import domainbed_records, run_cache
from .runs import Run, Sweep, of_lines


def load(folder: Path, cache: bool = True) -> Sweep:
    """Every run of a sweep's folder, planned or found. ``UsageError`` where there is none.

    cache: read the unchanged runs of a large sweep from what was kept the last time, and keep them.
    """
    folder = Path(folder)
    planned = {spec.run_id(): spec for spec in read_plan(folder)}
    is_sweep = (folder / PLAN).exists()
    by_name: dict[str, Run] = {}
    notes: list[str] = []
    if (archive := folder / records.ARCHIVE).exists():
        by_name = {run.name: run for run in load_archive(archive)}
    kept = run_cache.read(folder) if cache else run_cache.Kept()
    for path in run_folders(folder):
        name = os.path.basename(path)
        run = kept.get(name, path)
        try:
            run, told = (run, _told(run)) if run else load_run(path, planned.get(name))
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # written by something else
            run, told = None, [f"{name}: {type(error).__name__} in its files ({error}), so not counted"]
        notes += told
        if run is not None:
            by_name[name] = run
    if cache:
        kept.write(folder, by_name.values())
    if is_sweep and (extra := sorted(set(by_name) - set(planned))):
        notes.append(f"not in {PLAN}, but counted: {', '.join(extra)}")
    ordered = [by_name.get(name) or Run(name, spec) for name, spec in planned.items()]
    ordered += [run for name, run in by_name.items() if name not in planned]
    if not ordered:
        raise UsageError(f"no runs in {str(folder)!r}; give the folder that holds the folders of the runs")
    return Sweep(ordered, is_sweep, notes)


def run_folders(folder: Path) -> list[str]:
    """The folders below ``folder``, or itself where it holds a run; ``load_run`` tells which hold one."""
    if not os.path.isdir(folder):
        raise UsageError(f"no folder {str(folder)!r}; give the folder that a sweep wrote")
    if records.holds_run(folder):
        return [os.path.abspath(folder)]
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def load_run(folder: str | Path, planned: RunSpec | None = None) -> tuple[Run | None, list[str]]:
    """A run of ours or of DomainBed, and what was skipped. None where nothing says which run it is.

    planned: its spec, for a folder that holds none yet.
    """
    path = Path(folder)
    names = set(os.listdir(path))
    if names.isdisjoint(records.RUN_FILES):
        return None, []
    state = records.state_of(names, path)  # before its records: a run may end in between
    lines, problems = records.read_lines(path / "results.jsonl") if "results.jsonl" in names else ([], [])
    is_domainbed = bool(lines) and "args" in lines[0]
    spec = domainbed_records.spec(lines[0]) if is_domainbed else _spec(path, names, lines) or planned
    if spec is None:
        return None, [
            f"{path.name}: {told}" for told in ("no spec.json and no record, so not counted", *problems)
        ]
    if is_domainbed:
        lines = domainbed_records.convert(spec, lines)
    error = records.last_line(path / "error.txt") if "error.txt" in names else ""
    run = of_lines(path.name, spec, state, lines, problems, error=error, folder=str(path))
    return run, _told(run)


def _told(run: Run) -> list[str]:
    return [f"{run.name}: {problem}" for problem in run.problems]


def load_archive(path: Path) -> list[Run]:
    """The runs of a published sweep: the lines of its done runs in one gzipped file (``publish.py``)."""
    by_run: dict[str, list[Record]] = {}
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                if record := records.parse(line):
                    by_run.setdefault(record["run"], []).append(record)
        specs = {name: RunSpec.from_dict(lines[0]["spec"]) for name, lines in by_run.items()}
    except (EOFError, gzip.BadGzipFile, zlib.error, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error}); get it again") from None
    return [of_lines(name, spec, "done", by_run[name]) for name, spec in specs.items()]


def _spec(folder: Path, names: Collection[str], lines: list[Record]) -> RunSpec | None:
    values = None
    if "spec.json" in names:
        with contextlib.suppress(ValueError):
            values = orjson.loads((folder / "spec.json").read_bytes())
    if values is None and lines:
        values = lines[0].get("spec")
    return RunSpec.from_dict(values) if isinstance(values, dict) else None
