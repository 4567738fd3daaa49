"""Records: what a run writes at each evaluation, and the state of its folder.

A record is one JSON line of ``results.jsonl``; there is one per (evaluation, weights). Its ``metrics`` are
keyed ``<domain>/<part>/<metric>``, and its ``parts`` say which ``<domain>/<part>`` a selection rule may read
("validation"), which are reported ("test") and which only the oracle reads ("oracle").
``collect/load.py`` reads them.
"""

import contextlib
import json
import math
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import orjson

from . import files, lease
from .spec import RunSpec

Record = dict[str, Any]
ARCHIVE = "records.jsonl.gz"
MARKS = ("results.jsonl", "spec.json")
"""Files by one of which a folder is a run's."""
RUN_FILES = (*MARKS, "done", "error.txt", "lock", "out.txt")
_TELL_STATE = ("done", "error.txt", lease.NAME, lease.LOCK)


def evaluation_steps(spec: RunSpec) -> list[int]:
    """The steps at which a run is evaluated: every ``checkpoint_freq``, and the last.

    Of retrieval, the first and the last of every ``checkpoint_freq``: before the clustering of an epoch.
    """
    steps, every = spec.steps or 0, spec.checkpoint_freq or spec.steps or 1
    first = every - 1 if spec.task == "retrieval" else 0
    return sorted({0, *range(first, steps, every), steps - 1}) if steps else []


def append(path: Path, record: Mapping[str, Any], sync: bool = False) -> None:
    """Add one line in one write; ``sync`` also waits for the disk. ``OSError`` if the line did not fit."""
    files.append(path, (json.dumps(record) + "\n").encode(), sync)


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
    kept = [line for line in lines if (value := parse(line)) is not None and value["step"] < before_step]
    new = b"".join(line + b"\n" for line in kept)
    if new != old:
        files.replace(path, lambda file: file.write(new))
    return len(lines) - len(kept)


def holds_run(folder: str | Path) -> bool:
    """Whether a folder is a run's, ours or DomainBed's."""
    return any(os.path.exists(os.path.join(folder, name)) for name in MARKS)


def state(folder: Path) -> str:
    """ "waiting", "running", "failed" or "done", from the files of a run's folder."""
    folder = Path(folder)
    return state_of([name for name in _TELL_STATE if (folder / name).exists()], folder)


def has_ended(folder: Path) -> bool:
    """Whether a run is done or has failed."""
    return (folder / "done").exists() or (folder / "error.txt").exists()


def state_of(names: Container[str], folder: Path) -> str:
    """``state`` of a folder whose files are already known."""
    if "done" in names:
        return "done"
    if "error.txt" in names:
        return "failed"
    held = lease.NAME in names or lease.LOCK in names
    return "running" if held and lease.seems_alive(folder) else "waiting"


def write_error(folder: Path, text: str) -> None:
    """Write error.txt, which makes a run failed; on a full or read-only disk it stays waiting."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        files.replace_text(folder / "error.txt", text)


def read_lines(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a file, and what was wrong with the lines that are left out."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value = parse(line)
        if value is not None:
            found.append(value)
        elif number == len(lines):
            problems.append("its last line is torn and was cut")
        else:
            problems.append(f"line {number} is no record and was skipped")
    return found, problems


def parse(line: bytes) -> Record | None:
    """A line as a record, or None."""
    try:
        value = orjson.loads(line)
    except ValueError:
        if b"NaN" not in line and b"Infinity" not in line:  # orjson is strict, json writes them
            return None
        try:
            value = json.loads(line)
        except ValueError:
            return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def seconds(record: Mapping[str, Any]) -> float:
    """What a record took: its evaluation, and once per step the training before it; NaN if untold."""
    told = record.get("seconds")
    if not told or not {"evaluate", "train"} <= told.keys():
        return math.nan
    return told["evaluate"] + (told["train"] if record.get("weights", "raw") == "raw" else 0.0)


def last_line(path: Path) -> str:
    """The last line of a text that is not blank; empty if there is none."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
