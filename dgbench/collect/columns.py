"""The records of one run as columns of numbers: small in memory, and selected from without a loop.

A full sweep of the field has two million records. As dictionaries they take gigabytes and minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ..records import Record, seconds

HEAD = ("step", "weights", "seconds", "memory_gb")
"""The columns that every run has; metrics and ``loss/<name>`` follow."""
ABSENT = np.array([0x7FF8_0000_0000_07A2], dtype=np.uint64).view(np.float64)[0]
"""A NaN that no arithmetic makes: the record has no such number. (R marks a missing number the same way.)"""
Parts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Columns:
    """``values[i, j]`` is number ``names[i]`` of record j; "weights" indexes ``kinds``."""

    names: tuple[str, ...] = HEAD
    kinds: tuple[str, ...] = ()
    parts: Parts = field(default_factory=dict)
    values: np.ndarray = field(default_factory=lambda: np.empty((len(HEAD), 0)))

    def __len__(self) -> int:
        return self.values.shape[1]

    def __getitem__(self, name: str) -> np.ndarray:
        """A column; ``KeyError`` for a name that no record of the run has."""
        return self.values[_index(self.names)[name]]

    def __contains__(self, name: str) -> bool:
        return name in _index(self.names)

    def rows(self, weights: str) -> np.ndarray:
        """The records of one kind of weights, in the order of their steps."""
        if weights not in self.kinds:
            return np.empty(0, dtype=np.intp)
        steps = self["step"]
        order = np.arange(len(steps)) if np.all(steps[1:] > steps[:-1]) else np.argsort(steps, kind="stable")
        return order if len(self.kinds) == 1 else order[self["weights"][order] == self.kinds.index(weights)]


def absent(values: np.ndarray) -> np.ndarray:
    """Where a column holds no number, as a mask. A NaN that was recorded is a number here."""
    return values.view(np.uint64) == ABSENT.view(np.uint64)


@cache
def _index(names: tuple[str, ...]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def columns(lines: Sequence[Record]) -> tuple[Columns, list[str]]:
    """Whole records as columns, one per (step, weights); also says what was left out."""
    if not lines:
        return Columns(), []
    problems = []
    same = [line for line in lines if line["parts"] == lines[-1]["parts"]]
    if len(same) < len(lines):
        problems.append(f"{len(lines) - len(same)} records name other parts than the last and were skipped")
    kept: dict[tuple[int, str], Record] = {}
    for line in same:
        key = line["step"], line.get("weights", "raw")
        kept.pop(key, None)
        kept[key] = line
    if len(kept) < len(same):
        problems.append(f"{len(same) - len(kept)} repeated (step, weights), of which the last was kept")
    kinds = tuple(dict.fromkeys(weights for _, weights in kept))
    heads = [
        (step, kinds.index(weights), seconds(line), _float(line.get("memory_gb")))
        for (step, weights), line in kept.items()
    ]
    names, numbers = _numbers(list(kept.values()))
    values = np.array([(*head, *row) for head, row in zip(heads, numbers, strict=True)], dtype=np.float64)
    return Columns((*HEAD, *names), kinds, lines[-1]["parts"], np.ascontiguousarray(values.T)), problems


def _numbers(lines: Sequence[Record]) -> tuple[tuple[str, ...], list[list[float]]]:
    """(names, a row of values per line) of the metrics and losses."""
    metrics = [line["metrics"] for line in lines]
    losses = [line.get("losses") or {} for line in lines]
    first, also = tuple(metrics[0]), tuple(losses[0])
    names = (*first, *(f"loss/{name}" for name in also))
    if all(tuple(m) == first and tuple(s) == also for m, s in zip(metrics, losses, strict=True)):
        rows = [[*m.values(), *s.values()] for m, s in zip(metrics, losses, strict=True)]
        if not any(None in row for row in rows):
            return names, rows
    told = [
        m | {f"loss/{name}": value for name, value in s.items()} for m, s in zip(metrics, losses, strict=True)
    ]
    names = tuple(dict.fromkeys(name for each in told for name in each))
    return names, [[_float(each.get(name)) for name in names] for each in told]


def _float(value: Any) -> float:
    return ABSENT if value is None else float(value)
