"""Statistics of tables: spreads, a paired test, ranks. SciPy loads slowly, so each user imports it itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """What "+/-" is: a deviation whose divisor is n less ``taken_off``, over the root of n if ``of_mean``."""

    taken_off: int
    of_mean: bool
    name: str
    formula: str


SPREADS: Mapping[str, Spread] = {
    "domainbed": Spread(
        0, True, "standard error", "the standard deviation (divisor n) over the square root of n"
    ),
    "sample": Spread(
        1, True, "standard error", "the standard deviation (divisor n - 1) over the square root of n"
    ),
    "deviation": Spread(1, False, "standard deviation", "of single trials, divisor n - 1"),
}
LEVEL = 0.05
LEAST = 6
"""Pairs from which there is an interval: of fewer, resampling gives hardly more than their range."""
RESAMPLES = 9999  # all 2^n sign flips where there are fewer


def spread_of(values: Sequence[float], spread: str = "domainbed") -> float | None:
    """The "+/-" of the values; None for a single one. spread: of ``SPREADS``."""
    if len(values) < 2:
        return None
    kind = SPREADS[spread]
    deviation = float(np.std(values, ddof=kind.taken_off))
    return deviation / math.sqrt(len(values)) if kind.of_mean else deviation


@dataclass(frozen=True)
class Paired:
    """A method less another over pairs: mean difference, its 95 % interval, p-value, number of pairs."""

    mean: float
    low: float
    high: float
    p: float
    n: int


def paired(differences: Sequence[float]) -> Paired:
    """Two-sided permutation test (signs flipped) of a zero mean, with a percentile bootstrap interval."""
    from scipy.stats import bootstrap, permutation_test

    values = np.asarray(differences, dtype=float)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2 or math.isnan(mean):
        return Paired(mean, math.nan, math.nan, math.nan, len(values))
    if len(values) < LEAST:
        low = high = math.nan
    elif np.ptp(values) == 0:  # resampling a constant: the interval has no width
        low = high = mean
    else:
        interval = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
        low, high = map(float, interval.confidence_interval)
    test = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=0)
    return Paired(mean, low, high, float(test.pvalue), len(values))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's correction for several tests, in the given order; NaN stays."""
    order = sorted((p, i) for i, p in enumerate(pvalues) if not math.isnan(p))
    adjusted, largest = list(pvalues), 0.0
    for done, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - done)))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over data sets (1 is best), and the difference that matters."""

    ranks: Mapping[str, float]
    datasets: int
    critical_difference: float  # Nemenyi's, at ``LEVEL``
    p: float  # Friedman's test that all methods are equal

    def cliques(self) -> list[tuple[str, str]]:
        """The widest (best, worst) pairs of methods that differ by no more than the critical difference."""
        names = sorted(self.ranks, key=lambda name: self.ranks[name])
        found: list[tuple[int, int]] = []
        for i, name in enumerate(names):
            near = [
                j
                for j in range(len(names))
                if self.ranks[names[j]] - self.ranks[name] <= self.critical_difference
            ]
            if near[-1] > i and (not found or near[-1] > found[-1][1]):
                found.append((i, near[-1]))
        return [(names[i], names[j]) for i, j in found]


def average_ranks(scores: Mapping[str, Sequence[float]]) -> Ranks:
    """Ranks of ``{method: a score per data set}``, ties averaged. Needs two methods and two data sets."""
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    names, table = list(scores), np.array(list(scores.values()), dtype=float)  # (methods, data sets)
    ranks = rankdata(-table, axis=0).mean(axis=1)
    k, n = table.shape
    quantile = studentized_range.ppf(1 - LEVEL, k, math.inf) / math.sqrt(2)
    differs = len(np.unique(table.argsort(axis=0))) > 1 and not np.all(np.ptp(table, axis=0) == 0)
    p = float(friedmanchisquare(*table).pvalue) if k > 2 and differs else math.nan
    told = {name: float(rank) for name, rank in zip(names, ranks, strict=True)}
    return Ranks(told, n, float(quantile * math.sqrt(k * (k + 1) / (6 * n))), p)


def against_published(
    ours: Sequence[float], mean: float, error: float | None, n: int | None, spread: str
) -> float | None:
    """p-value of equal means of our trials and a published mean; None where nothing can be tested.

    error: the published "+/-", of the kind ``spread``, a name of ``SPREADS``. With an error and n, Welch's
    t-test; without, our mean against the printed one as if it were exact.
    """
    from scipy.stats import t, ttest_1samp, ttest_ind_from_stats

    deviation = _deviation(error, n, spread)
    if deviation is not None and n is not None:
        if len(ours) == 1:  # one more draw from their distribution
            width = deviation * math.sqrt(1 + 1 / n)
            return float(2 * t.sf(abs(ours[0] - mean) / width, n - 1)) if width else None
        own = float(np.std(ours, ddof=1))
        if own == deviation == 0:
            return None
        test = ttest_ind_from_stats(np.mean(ours), own, len(ours), mean, deviation, n, equal_var=False)
        return float(test.pvalue)
    if len(ours) < 2 or np.ptp(ours) == 0:
        return None
    return float(ttest_1samp(ours, mean).pvalue)


def _deviation(error: float | None, n: int | None, spread: str) -> float | None:
    """The sample standard deviation behind a printed "+/-"."""
    if error is None or n is None or n < 2 or spread not in SPREADS:
        return None
    kind = SPREADS[spread]
    return error * math.sqrt((n if kind.of_mean else 1) * (n - kind.taken_off) / (n - 1))
