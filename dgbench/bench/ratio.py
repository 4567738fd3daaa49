"""Ours against a reference, in turns (A B A B ...).

The median of the paired ratios is what a noisy machine moves least. Figures are never asserted anywhere.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Medians of ours and of the reference, in ``unit``, and of ours / reference."""

    name: str
    ours: float
    reference: float
    ratio: float
    unit: str = "ms"


def alternate(name: str, ours: Callable[[], object], reference: Callable[[], object], turns: int) -> Ratio:
    """The time of both, run in turns, after one warm-up each."""
    ours()
    reference()
    return paired(name, lambda: milliseconds(ours), lambda: milliseconds(reference), turns)


def paired(
    name: str, ours: Callable[[], float], reference: Callable[[], float], turns: int, unit: str = "ms"
) -> Ratio:
    """Figures that both measure themselves, in turns."""
    pairs = [(ours(), reference()) for _ in range(turns)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Ratio(name, mine, theirs, statistics.median(a / b for a, b in pairs), unit)


def milliseconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
