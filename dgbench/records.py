"""Records: what a run writes at each evaluation, and all that is read after it.

A record is one JSON line of ``results.jsonl``; there is one per (evaluation, weights). Its ``metrics`` are
keyed ``<domain>/<part>/<metric>``, and its ``parts`` say which ``<domain>/<part>`` a selection rule may read
("validation"), which are reported ("test") and which only the oracle reads ("oracle"). DomainBed's sweep
folders are read into the same shape.
"""

import gzip
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from . import domainbed_records, files
from .errors import UsageError
from .spec import RunSpec

Record = dict[str, Any]
Settings = tuple[tuple[str, Any], ...]  # ((field of RunSpec, its value; a mapping as JSON), ...)
FIELDS = ("step", "weights", "metrics", "parts")
"""What selection needs of a record; ``load(..., keep=...)`` keeps others."""
CELL = ("test_envs", "source_envs", "trial_seed", "hparams_seed")
"""The fields of a spec that differ within one row of a table."""
ARCHIVE = "records.jsonl.gz"
RUN_FILES = ("results.jsonl", "spec.json", "done", "error.txt", "lock", "out.txt")


@dataclass
class Run:
    """A run and its records, in the order of the file, one per (step, weights)."""

    name: str
    spec: RunSpec
    state: str = "waiting"
    records: list[Record] = field(default_factory=list)
    error: str = ""  # last line of error.txt
    fingerprints: dict[str, set[str]] = field(default_factory=dict)  # {domain: what its lines say}

    @cached_property
    def settings(self) -> Settings:
        """What the runs of one row share: all of the spec but ``CELL``."""
        values = {f.name: getattr(self.spec, f.name) for f in fields(self.spec) if f.name not in CELL}
        return tuple(
            (name, json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value)
            for name, value in values.items()
        )

    @property
    def reason(self) -> str:
        """Why the run does not count, in words; empty for a run that is done."""
        if self.state == "done":
            return ""
        if self.state == "failed":
            return f"failed: {self.error or 'error.txt is empty'}"
        seen = len({record["step"] for record in self.records})
        total = f" of {len(evaluation_steps(self.spec))}" if self.spec.steps else ""
        if self.state == "running":
            return f"running: {seen}{total} evaluations"
        return f"not finished: {seen}{total} evaluations" if seen else "not started"


@dataclass
class Sweep:
    """The runs of a folder: the planned ones first, in the plan's order, then others by name."""

    runs: list[Run]
    planned: bool  # sweep.json says which runs are expected
    notes: list[str]  # what was skipped, in words


def evaluation_steps(spec: RunSpec) -> list[int]:
    """The steps at which a run is evaluated: every ``checkpoint_freq``, and the last."""
    steps = spec.steps or 0
    return sorted({*range(0, steps, spec.checkpoint_freq or steps), steps - 1}) if steps else []


def append(path: Path, record: Mapping[str, Any], sync: bool = False) -> None:
    """Add one line in one write; ``sync`` also waits for the disk. ``OSError`` if the line did not fit."""
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(f"{path}: the disk took only a part of a record")
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def truncate(path: Path, before_step: int) -> int:
    """Keep the whole lines with step < ``before_step``, for a run that resumes there.

    The file is written aside and replaced, so a kill leaves the old one or the new one. Returns the number of
    lines cut.
    """
    path = Path(path)
    if not path.exists():
        return 0
    old = path.read_bytes()
    lines = [line for line in old.split(b"\n") if line.strip()]
    kept = [line for line in lines if (value := _parse(line)) is not None and value["step"] < before_step]
    new = b"".join(line + b"\n" for line in kept)
    if new != old:
        files.replace(path, lambda file: file.write(new))
    return len(lines) - len(kept)


def is_locked(path: Path) -> bool:
    """Whether a process holds ``flock`` on the file; a missing file is not locked."""
    if not path.exists():
        return False
    with files.lock(path, shared=True) as free:
        return not free


def state(folder: Path) -> str:
    """ "waiting", "running", "failed" or "done", from the files of a run's folder."""
    folder = Path(folder)
    if (folder / "done").exists():
        return "done"
    if (folder / "error.txt").exists():
        return "failed"
    return "running" if is_locked(folder / "lock") else "waiting"


def read_lines(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a file, and what was wrong with the lines that are left out."""
    if not path.exists():
        return [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value = _parse(line)
        if value is not None:
            found.append(value)
        elif number == len(lines):
            problems.append("its last line is torn and was cut")
        else:
            problems.append(f"line {number} is no record and was skipped")
    return found, problems


def _parse(line: str | bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def detect_format(folder: Path) -> str | None:
    """ "dgbench", "domainbed", or None where the folder holds no runs."""
    folder = Path(folder)
    if (folder / "sweep.json").exists():
        return "dgbench"
    for run_folder in run_folders(folder):
        if (run_folder / "spec.json").exists():
            return "dgbench"
        lines, _ = read_lines(run_folder / "results.jsonl")
        if lines:
            return "domainbed" if "args" in lines[0] else "dgbench"
    return None


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs below ``folder``, or itself where it is one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give the folder that a sweep wrote")
    if any((folder / name).exists() for name in RUN_FILES[:2]):
        return [folder]
    below = (Path(entry.path) for entry in sorted(os.scandir(folder), key=lambda e: e.name) if entry.is_dir())
    return [path for path in below if any((path / name).exists() for name in RUN_FILES)]


def load_run(
    folder: Path, keep: Collection[str] = FIELDS, planned: RunSpec | None = None
) -> tuple[Run | None, list[str]]:
    """A run of ours or of DomainBed, and what was skipped. None where nothing says which run it is.

    ``planned``: its spec, for a folder that holds none yet.
    """
    folder = Path(folder)
    found_as = state(folder)  # before its records: a run may end in between
    lines, problems = read_lines(folder / "results.jsonl")
    is_domainbed = bool(lines) and "args" in lines[0]
    spec = domainbed_records.spec(lines[0]) if is_domainbed else _spec(folder, lines) or planned
    if spec is None:
        return None, [f"{folder.name}: no spec.json and no record, so not counted", *problems]
    if is_domainbed:
        lines = domainbed_records.convert(spec, lines)
    run = Run(folder.name, spec, found_as, error=last_line(folder / "error.txt"))
    return run, [f"{run.name}: {problem}" for problem in problems + _take(run, lines, keep)]


def _take(run: Run, lines: list[Record], keep: Collection[str]) -> list[str]:
    """Give a run its records; returns what was wrong with them."""
    problems = []
    whole = [line for line in lines if "metrics" in line and "parts" in line]
    if len(whole) < len(lines):
        problems.append(f"{len(lines) - len(whole)} lines without metrics or parts were skipped")
    contents = [line.get("fingerprint") for line in whole]
    for content, before in zip(contents, [None, *contents], strict=False):
        if content and content != before:
            for domain, told in content.items():
                run.fingerprints.setdefault(domain, set()).add(json.dumps(told, sort_keys=True))
    run.records, repeated = _without_repeats(_slim(line, keep) for line in whole)
    if repeated:
        problems.append(f"{repeated} repeated (step, weights), of which the last was kept")
    return problems


def load_archive(path: Path, keep: Collection[str] = FIELDS) -> list[Run]:
    """The runs of a published sweep: the lines of its done runs in one gzipped file (``publish.py``)."""
    by_run: dict[str, list[Record]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            by_run.setdefault((record := json.loads(line))["run"], []).append(record)
    runs = [Run(name, RunSpec.from_dict(lines[0]["spec"]), "done") for name, lines in by_run.items()]
    for run in runs:
        _take(run, by_run[run.name], keep)
    return runs


def load(folder: Path, keep: Collection[str] = FIELDS) -> Sweep:
    """Every run of a sweep's folder, planned or found. ``UsageError`` where there is none."""
    folder = Path(folder)
    plan = _plan(folder / "sweep.json")
    planned = {spec.run_id(): spec for spec in plan or []}
    runs: dict[str, Run] = {}
    notes: list[str] = []
    if (archive := folder / ARCHIVE).exists():
        runs = {run.name: run for run in load_archive(archive, keep)}
    for path in run_folders(folder):
        run, problems = load_run(path, keep, planned.get(path.name))
        notes += problems
        if run is not None:
            runs[run.name] = run
    if plan is not None and (extra := sorted(set(runs) - set(planned))):
        notes.append(f"not in sweep.json, but counted: {', '.join(extra)}")
    ordered = [runs.get(name) or Run(name, spec) for name, spec in planned.items()]
    ordered += [run for name, run in runs.items() if name not in planned]
    if not ordered:
        raise UsageError(f"no runs in {str(folder)!r}; give the folder that holds the folders of the runs")
    return Sweep(ordered, plan is not None, notes)


def _slim(line: Record, keep: Collection[str]) -> Record:
    record = {name: line[name] for name in keep if name in line}
    record.setdefault("weights", "raw")
    return record


def _without_repeats(lines: Iterable[Record]) -> tuple[list[Record], int]:
    by_key: dict[tuple[int, str], Record] = {}
    total = 0
    for record in lines:
        total += 1
        by_key.pop((record["step"], record["weights"]), None)
        by_key[record["step"], record["weights"]] = record
    return list(by_key.values()), total - len(by_key)


def _spec(folder: Path, lines: list[Record]) -> RunSpec | None:
    try:
        values = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        values = lines[0].get("spec") if lines else None
    return RunSpec.from_dict(values) if isinstance(values, dict) else None


def _plan(path: Path) -> list[RunSpec] | None:
    if not path.exists():
        return None
    try:
        return [RunSpec.from_dict(values) for values in json.loads(path.read_text(encoding="utf-8"))["specs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no plan of a sweep ({error}); launch the sweep again") from error


def last_line(path: Path) -> str:
    """The last line of a text that is not blank; empty if there is none."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
