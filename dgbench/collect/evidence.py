"""What a selection rule may read of a run: accuracies of sources, or metrics that need no target labels."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..errors import UsageError
from ..spec import RunSpec
from .columns import absent
from .runs import Run

METRICS: Mapping[str, str] = {"retrieval": "P@1"}
"""{task: the metric that its validation and test parts are scored by}; ``DEFAULT_METRIC`` for the others."""
DEFAULT_METRIC = "acc"
LABEL_FREE = {"entropy": "lowest", "im": "highest", "confidence": "highest", "snd": "highest"}
"""{metric that needs no labels: its better end}; nothing else of a target may select.

"im": entropy of the mean prediction less the mean entropy; "snd": soft neighbourhood density.
"""
_HELD_OUT_TASKS = ("domain_generalization", "semi_supervised", "domain_adaptation")

Evidence = Callable[[Run, np.ndarray], Mapping[str, np.ndarray] | None]
"""(run, its records) -> {what: values}, or None where a run that it needs is missing."""
Keys = Callable[[RunSpec, Mapping[str, Sequence[str]]], Sequence[str]]
"""(spec, parts) -> names of metrics."""


def evidence(kind: str, keys: Keys | None, done: Sequence[Run]) -> Evidence:
    """The reader of a rule's ``evidence``; ``UsageError`` from it for the target's accuracy.

    kind: "validation", the parts that a run names so; "oracle", the target's "out" part; "left_out", each
    source's "in" part in the run that holds it out beside the target; "metrics", what ``keys`` names;
    "test", the target's labelled parts; of retrieval, both directions by their first P@k.
    """
    if kind == "test":
        return lambda run, rows: {
            part: number(run, rows, _first(run, part)) for part in _parts(run, "oracle")
        }
    if kind == "left_out":
        return _LeftOut(done).accuracies
    if kind == "metrics":
        assert keys is not None
        return lambda run, rows: {key: number(run, rows, key) for key in _label_free(run, keys)}
    return lambda run, rows: {part: accuracy(run, rows, part) for part in _parts(run, kind)}


def _label_free(run: Run, keys: Keys) -> Sequence[str]:
    named = keys(run.spec, run.columns.parts)
    sources = {domain_of(part) for part in run.columns.parts.get("validation", ())}
    for key in named:
        part, _, name = key.rpartition("/")
        labelled = domain_of(part) in sources and not part.endswith("/unlabelled")
        if not labelled and name not in LABEL_FREE:
            free = ", ".join(LABEL_FREE)
            raise UsageError(f"{key} of {run.name} may need hidden labels; choose a metric from: {free}")
    return named


def _parts(run: Run, kind: str) -> Sequence[str]:
    parts = run.columns.parts.get(kind, ())
    if kind != "oracle":
        for part in parts:
            if part in run.columns.parts["test"] or domain_of(part) in run.spec.test_envs:
                raise UsageError(f"{run.name} names {part}, a part of its target, as validation")
    return parts


def _first(run: Run, part: str) -> str:
    """The column with a part's score; of retrieval, where a run has several, its first P@k."""
    found = [name for name in run.columns.names if name.startswith(f"{part}/P@")]
    return found[0] if found else f"{part}/{metric(run)}"


class _LeftOut:
    """For (target, source): the source's accuracy in the run that holds both out, at the same step."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = {self._key(run, run.spec.test_envs): run for run in runs if is_held_out_pair(run.spec)}

    @staticmethod
    def _key(run: Run, targets: Iterable[str]) -> tuple[object, ...]:
        return run.settings, frozenset(targets), run.spec.trial_seed, run.spec.hparams_seed

    def accuracies(self, run: Run, rows: np.ndarray) -> Mapping[str, np.ndarray] | None:
        """{source part: accuracies}; NaN at a step that the run of a source lacks, None without that run."""
        found = {}
        weights = run.columns.kinds[int(run.columns["weights"][rows[0]])]
        steps = run.columns["step"][rows]
        for source in dict.fromkeys(map(domain_of, run.columns.parts["validation"])):
            pair = self._runs.get(self._key(run, (*run.spec.test_envs, source)))
            if pair is None or f"{source}/in/{metric(run)}" not in pair.columns:
                return None
            theirs = pair.columns.rows(weights)
            at = dict(zip(pair.columns["step"][theirs].tolist(), theirs.tolist(), strict=True))
            values = pair.columns[f"{source}/in/{metric(run)}"]
            found[f"{source}/in"] = np.array([values[at[s]] if s in at else math.nan for s in steps.tolist()])
        return found


def metric(run: Run) -> str:
    """What the run's parts are scored by; runs of retrieval say which of their metrics."""
    if run.settings[-1:] and run.settings[-1][0] == "metric":
        return run.settings[-1][1]
    return score(run.spec.task)


def score(task: str) -> str:
    """The metric that a task's validation and test parts are scored by."""
    return METRICS.get(task, DEFAULT_METRIC)


def accuracy(run: Run, rows: np.ndarray, part: str) -> np.ndarray:
    """The score of a part in these records; ``UsageError`` where one lacks it."""
    return number(run, rows, f"{part}/{metric(run)}")


def number(run: Run, rows: np.ndarray, key: str) -> np.ndarray:
    """A column of these records; ``UsageError`` where one lacks it."""
    values = run.columns[key][rows] if key in run.columns else None
    lacks = np.ones(len(rows), bool) if values is None else absent(values)
    if values is None or lacks.any():
        step = int(run.columns["step"][rows[lacks.argmax()]])
        raise UsageError(f"{run.name}, step {step}: the record has no {key}")
    return values


def is_held_out_pair(spec: RunSpec) -> bool:
    """A run with two or more targets: never scored, read by leave_one_domain_out."""
    return len(spec.test_envs) > 1 and spec.task in _HELD_OUT_TASKS


def domain_of(part: str) -> str:
    """ "sketch/out" -> "sketch"."""
    return part.rpartition("/")[0]
