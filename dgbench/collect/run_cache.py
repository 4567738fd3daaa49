"""A large sweep's records, kept as columns between two readings.

``$DGBENCH_CACHE/records/<folder>`` (default ``~/.cache/dgbench``) holds index.json and one array of numbers.
A run is read anew when the times or sizes of its folder, results.jsonl or spec.json differ from what they
were. It can be deleted at any time.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from .. import files, records
from ..spec import RunSpec
from .columns import Columns
from .runs import CELL, Run, Settings, settings

VERSION = 1
LEAST_BYTES = 8 * 2**20
"""Smaller sweeps are read as fast from their own files."""
RACE_SECONDS = 2.0
"""A file younger than this when it was read may change again without a new time."""
_WATCHED = ("", "results.jsonl", "spec.json")


@dataclass
class Kept:
    """What was kept of a folder the last time, by run."""

    rows: dict[str, list[Any]] = field(default_factory=dict)
    pools: dict[str, list[Any]] = field(default_factory=dict)
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    signatures: dict[str, list[int]] = field(default_factory=dict)  # of this reading
    hits: int = 0

    def get(self, name: str, path: str) -> Run | None:
        """The run in the folder ``path`` if nothing there changed."""
        signature = self.signatures[name] = _signature(path)
        row = self.rows.get(name)
        if row is None or row[0] != signature:
            return None
        self.hits += 1
        return self._run(name, path, row)

    def _run(self, name: str, path: str, row: list[Any]) -> Run:
        _, shared, cell, state, error, layout, start, count, problems, fingerprints, codes, hparams = row
        base, shared_settings = self.pools["shared"][shared]
        names, kinds, parts = self.pools["layout"][layout]
        targets, sources, trial, draw = cell
        spec = RunSpec(
            **base,
            test_envs=tuple(targets),
            source_envs=tuple(sources),
            trial_seed=trial,
            hparams_seed=draw,
        )
        values = self.values[start : start + len(names) * count].reshape(len(names), count)
        if state not in ("done", "failed"):
            state = records.state(Path(path))  # a lock leaves no trace
        return Run(
            name,
            spec,
            state,
            Columns(names, kinds, parts, values),
            error,
            self.pools["fingerprints"][fingerprints],
            self.pools["codes"][codes],
            self.pools["hparams"][hparams],
            path,
            problems,
            shared_settings,
        )

    def write(self, folder: Path, runs: Iterable[Run]) -> None:
        """Keep the runs of this reading, where the sweep is large and something changed."""
        runs = [run for run in runs if run.name in self.signatures and run.folder]
        size = sum(max(self.signatures[run.name][1], 0) for run in runs)
        if size < LEAST_BYTES or (self.hits == len(runs) == len(self.rows)):
            return
        pools, rows, start = _Pools(), [], 0
        young = time.time_ns() - int(RACE_SECONDS * 1e9)
        for run in runs:
            signature = self.signatures[run.name]
            if max(signature[0], signature[2], signature[4]) < young:
                rows.append([run.name, _row(run, signature, pools, start)])
                start += run.columns.values.size
        names = {name for name, _ in rows}
        arrays = [run.columns.values for run in runs if run.name in names]
        to = _folder(folder)
        try:
            to.mkdir(parents=True, exist_ok=True)
            data = f"{os.getpid()}-{time.time_ns()}.f64"
            files.replace(to / data, lambda file: [file.write(array.data) for array in arrays])
            index = {"version": VERSION, "data": data, "rows": rows, "pools": pools.lists}
            files.replace(to / "index.json", lambda file: file.write(orjson.dumps(index)))
            for old in to.glob("*.f64"):
                if old.name != data:
                    old.unlink(missing_ok=True)
        except OSError:  # a full or read-only disk: the next reading is slow again
            return


def read(folder: Path) -> Kept:
    """What is kept of a folder; empty where that is nothing, or not ours."""
    to = _folder(folder)
    try:
        index = orjson.loads((to / "index.json").read_bytes())
        if index["version"] != VERSION:
            return Kept()
        values = np.memmap(to / index["data"], dtype=np.float64, mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return Kept()
    pools = index["pools"]
    pools["shared"] = [_shared(base) for base in pools["shared"]]
    pools["layout"] = [(tuple(names), tuple(kinds), parts) for names, kinds, parts in pools["layout"]]
    return Kept(dict(index["rows"]), pools, values)


def _folder(folder: Path) -> Path:
    path = os.path.realpath(folder)
    digest = hashlib.sha256(path.encode()).hexdigest()[:16]
    return files.cache_folder("records") / f"{os.path.basename(path)}-{digest}"


def _signature(path: str) -> list[int]:
    """[its mtime, size and mtime of results.jsonl and of spec.json]; -1 for what is not there."""
    found: list[int] = []
    for name in _WATCHED:
        try:
            stat = os.stat(f"{path}/{name}" if name else path)
            found += [stat.st_size, stat.st_mtime_ns] if name else [stat.st_mtime_ns]
        except OSError:
            found += [-1, -1]
    return found


class _Pools:
    """Values that many runs share, each once."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {}
        self._places: dict[str, dict[bytes, int]] = {}

    def add(self, pool: str, value: Any) -> int:
        key = orjson.dumps(value)
        places, values = self._places.setdefault(pool, {}), self.lists.setdefault(pool, [])
        if key not in places:
            places[key] = len(values)
            values.append(value)
        return places[key]


def _row(run: Run, signature: list[int], pools: _Pools, start: int) -> list[Any]:
    spec, kept = run.spec, run.columns
    base = {name: value for name, value in vars(spec).items() if name not in CELL}
    return [
        signature,
        pools.add("shared", base),
        [spec.test_envs, spec.source_envs, spec.trial_seed, spec.hparams_seed],
        run.state,
        run.error,
        pools.add("layout", [kept.names, kept.kinds, kept.parts]),
        start,
        len(kept),
        list(run.problems),
        pools.add("fingerprints", {domain: sorted(told) for domain, told in run.fingerprints.items()}),
        pools.add("codes", list(run.codes)),
        pools.add("hparams", run.hparams),
    ]


def _shared(base: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in base.items()
    }
    return plain, settings(RunSpec(**plain))
