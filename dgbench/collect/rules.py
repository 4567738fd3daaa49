"""The selection rules. The first three are DomainBed's (model_selection.py), to the digit, ties included."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import UsageError, unknown
from ..spec import RunSpec
from .evidence import LABEL_FREE, domain_of
from .selection import Candidates, Rule

DEFAULT = "training_domain_validation"
ORACLE = "oracle"


def best(candidates: Candidates) -> int | None:
    """The first candidate with the highest score. NaN never wins."""
    return None if np.isnan(candidates.score).all() else int(np.nanargmax(candidates.score))


def lowest_of(candidates: Candidates) -> int | None:
    """The first candidate with the lowest score."""
    return None if np.isnan(candidates.score).all() else int(np.nanargmin(candidates.score))


def of_each_run(candidates: Candidates, mask: np.ndarray, last: bool = False) -> np.ndarray:
    """The first (or last) candidate of each run among those of the mask, as indices."""
    at = np.flatnonzero(mask)
    _, first = np.unique(candidates.run[at[::-1] if last else at], return_index=True)
    return np.sort((at[::-1] if last else at)[first])


def _best_of(candidates: Candidates, at: np.ndarray) -> int | None:
    chosen = best(candidates.where(at))
    return None if chosen is None else int(at[chosen])


def _best_of_last(candidates: Candidates) -> int | None:
    ends = of_each_run(candidates, np.ones(len(candidates), bool), last=True)
    return int(ends[0]) if len(ends) == 1 else _best_of(candidates, ends)


def _first_at(threshold: float) -> Callable[[Candidates], int | None]:
    return lambda candidates: _best_of(candidates, of_each_run(candidates, candidates.score >= threshold))


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            DEFAULT,
            "training-domain validation set",
            "Hyper-parameters and checkpoint are those with the best unweighted mean accuracy on the "
            "validation parts of the source domains.",
            best,
        ),
        Rule(
            "leave_one_domain_out",
            "leave-one-domain-out cross-validation",
            "Hyper-parameters and checkpoint are those with the best mean accuracy on each source domain in "
            "the run that holds it out beside the target.",
            best,
            evidence="left_out",
        ),
        Rule(
            ORACLE,
            "test-domain validation set (oracle)",
            'Hyper-parameters are those with the best accuracy on the target\'s own "out" part (in '
            "adaptation, on all of it) at the last checkpoint: target labels were used.",
            _best_of_last,
            evidence="oracle",
        ),
        Rule(
            "last",
            "last checkpoint",
            "The last checkpoint; among several hyper-parameters, those with the best unweighted mean "
            "accuracy on the validation parts there.",
            _best_of_last,
        ),
        Rule(
            "oracle_epoch",
            "best evaluation by test labels (oracle epoch)",
            "Checkpoint and hyper-parameters are those with the best score on the target's labels (of "
            "retrieval, the mean over both directions of the first P@k), as in the code of UCDIR and of the "
            "Transfer-Learning-Library: test labels were used.",
            best,
            evidence="test",
        ),
    )
}
"""Rules that need no value. ``make`` also knows ``early_stopping`` and ``label_free``."""
NAMES = (*RULES, "early_stopping", "label_free")


def make(name: str, threshold: float | None = None, metric: str | None = None) -> Rule:
    """The rule of a command line; ``UsageError`` for a bad name or value."""
    if name not in NAMES:
        raise unknown("selection", name, NAMES)
    if (threshold is not None) != (name == "early_stopping"):
        raise UsageError("--threshold belongs to --selection early_stopping, e.g. --threshold 0.95")
    if (metric is not None) != (name == "label_free"):
        raise UsageError("--metric belongs to --selection label_free, e.g. --metric target/all/entropy")
    if threshold is not None:
        return early_stopping(threshold)
    return label_free(metric) if metric is not None else RULES[name]


def early_stopping(threshold: float) -> Rule:
    """The first checkpoint whose validation accuracy reaches ``threshold`` (RCL's paper stops at 0.95)."""
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold {threshold} is no accuracy; give a number above 0 and at most 1")
    return Rule(
        "early_stopping",
        f"early stopping at {100 * threshold:g} % validation accuracy",
        f"The first checkpoint whose mean accuracy on the validation parts reaches {100 * threshold:g} %; "
        "among several hyper-parameters, those with the best such accuracy there. A trial that never gets "
        "there has no result.",
        _first_at(threshold),
    )


def label_free(metric: str) -> Rule:
    """The checkpoint with the best value of a metric that needs no target labels.

    metric: ``<domain>/<part>/<name>``, where the domain "target" or "source" stands for each of them (their
    mean counts). A target's metric must be one of ``LABEL_FREE``.
    """
    domain, _, rest = metric.partition("/")
    name = rest.rpartition("/")[2]
    if "/" not in rest:
        raise UsageError(f"--metric {metric!r} is not <domain>/<part>/<name>, e.g. target/all/entropy")
    lowest = name in ("loss", *(label for label, direction in LABEL_FREE.items() if direction == "lowest"))

    def keys(spec: RunSpec, parts: Mapping[str, Sequence[str]]) -> list[str]:
        targets = [domain_of(part) for part in parts.get("test", ())]
        stands_for = {"target": list(dict.fromkeys(targets)), "source": _sources(parts)}
        found = stands_for.get(domain, [domain])
        if not found:
            raise UsageError(f"--metric {metric!r}: {spec.run_id()} names no {domain}")
        return [f"{each}/{rest}" for each in found]

    return Rule(
        "label_free",
        f"label-free validator {metric}",
        f"Hyper-parameters and checkpoint are those with the {'lowest' if lowest else 'highest'} {metric}, "
        "which needs no target labels.",
        lowest_of if lowest else best,
        evidence="metrics",
        keys=keys,
        lowest=lowest,
    )


def _sources(parts: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(map(domain_of, parts.get("validation", ()))))
