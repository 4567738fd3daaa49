"""Selection: one record per group, from records alone.

A group is one cell of a table and one trial: its candidates are the evaluated checkpoints of every
hyper-parameter draw. A rule sees ``Candidates``: step, draw, run and the accuracies that it may use. What is
reported is looked up after the choice, so no rule can read it. The rules are in ``rules.py``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .columns import absent
from .errors import UsageError
from .runs import Run, Settings
from .spec import RunSpec

Column = tuple[tuple[str, ...], tuple[str, ...]]  # (sources, targets) as in RunSpec
DRAWS = {
    "per_trial": "Chosen per trial.",
    "shared": "Hyper-parameters are chosen once for all trials, by their mean; the checkpoint per trial.",
}
METRICS: Mapping[str, str] = {}
"""{task: the metric that its validation and test parts are scored by}; ``DEFAULT_METRIC`` for the others."""
DEFAULT_METRIC = "acc"
LABEL_FREE = {"entropy": "lowest", "im": "highest", "confidence": "highest", "snd": "highest"}
"""{metric that needs no labels: its better end}; nothing else of a target may select.

"im": entropy of the mean prediction less the mean entropy; "snd": soft neighbourhood density.
"""

_HELD_OUT_TASKS = ("domain_generalization", "semi_supervised", "domain_adaptation")


@dataclass(frozen=True)
class Candidates:
    """All that a rule may know of a group's records: columns, one entry per record.

    Ordered by draw from the highest, then by step, so that the first of equals is DomainBed's choice.
    """

    run: np.ndarray  # a number per run
    hparams_seed: np.ndarray
    step: np.ndarray
    validation: Mapping[str, np.ndarray]  # {"art_painting/out": accuracies}

    @cached_property
    def score(self) -> np.ndarray:
        """Unweighted mean of the validation numbers; NaN without any."""
        total = np.zeros(len(self.step))
        for values in self.validation.values():  # added from left to right, as numpy does for few values
            total = total + values
        return total / len(self.validation) if self.validation else np.full(len(self.step), math.nan)

    def __len__(self) -> int:
        return len(self.step)

    def where(self, mask: np.ndarray) -> "Candidates":
        """Those that the mask, or the indices, names."""
        kept = {part: values[mask] for part, values in self.validation.items()}
        return Candidates(self.run[mask], self.hparams_seed[mask], self.step[mask], kept)


Evidence = Callable[[Run, np.ndarray], Mapping[str, np.ndarray] | None]
"""(run, its records) -> {what: values}, or None where a run that it needs is missing."""


@dataclass(frozen=True)
class Rule:
    """A selection rule. ``choose`` returns the index of a candidate, or None where none will do.

    evidence: which numbers its candidates carry. "validation": the parts that a run names so. "oracle": the
    target's "out" part. "left_out": each source's "in" part in the run that holds it out beside the target.
    "metrics": the numbers that ``keys(run)`` names, never the target's accuracy.
    """

    name: str
    title: str
    sentence: str
    choose: Callable[[Candidates], int | None]
    evidence: str = "validation"
    keys: Callable[[RunSpec, Mapping[str, Sequence[str]]], Sequence[str]] | None = None
    lowest: bool = False  # the better end of the score


@dataclass(frozen=True)
class Choice:
    """The record chosen for a group, and its reported accuracy in [0, 1]."""

    settings: Settings
    column: Column
    trial_seed: int
    weights: str
    run: str
    hparams_seed: int
    step: int
    validation: float
    test: float
    chosen: bool = True  # False: the rule took none, and ``step`` is only where it looked first


def is_held_out_pair(spec: RunSpec) -> bool:
    """A run with two or more targets: never scored, read by leave_one_domain_out."""
    return len(spec.test_envs) > 1 and spec.task in _HELD_OUT_TASKS


def mean(values: Sequence[float]) -> float:
    """Plain mean, added from left to right as numpy does for few values; NaN for none."""
    total = 0.0
    for value in values:  # sum() rounds differently from Python 3.12 on
        total += value
    return total / len(values) if values else math.nan


@dataclass(frozen=True)
class Ballot:
    """What a rule chooses from for one (row, column, trial, weights), and the runs behind it."""

    key: tuple[Settings, Column, int, str]
    runs: Sequence[Run]
    candidates: Candidates

    def choice(self, index: int | None) -> Choice:
        """The candidate as a choice; without one the first is told and its ``test`` is NaN."""
        at = index or 0
        run, step = self.runs[int(self.candidates.run[at])], int(self.candidates.step[at])
        test = math.nan if index is None else _test(run, self.key[3], step)
        score = float(self.candidates.score[at])
        draw = int(self.candidates.hparams_seed[at])
        return Choice(*self.key, run.name, draw, step, score, test, chosen=index is not None)


def ballots(runs: Iterable[Run], rule: Rule) -> list[Ballot]:
    """The candidates of every group among the runs that are done.

    ``UsageError`` for a record that lacks an accuracy or names the target's as validation.
    """
    done = [run for run in runs if run.state == "done"]
    evidence = _evidence(rule, done)
    members: dict[tuple[Settings, Column, int], list[Run]] = {}
    for run in sorted(done, key=lambda run: (-run.spec.hparams_seed, run.name)):
        spec = run.spec
        if not is_held_out_pair(spec):
            key = (run.settings, (spec.source_envs, spec.test_envs), spec.trial_seed)
            members.setdefault(key, []).append(run)
    found = []
    for key, together in members.items():
        for weights in dict.fromkeys(kind for run in together for kind in run.columns.kinds):
            candidates = _candidates(together, weights, evidence)
            if candidates is not None:
                found.append(Ballot((*key, weights), together, candidates))
    return found


def select(runs: Iterable[Run], rule: Rule, draws: str = "per_trial") -> list[Choice]:
    """The choice of every group. A group in which nothing could be chosen has ``test`` NaN.

    draws: "per_trial" chooses the hyper-parameters anew in each trial; "shared" takes the draw whose chosen
    checkpoints have the best mean score over all trials, and then the checkpoint per trial.
    """
    found = ballots(runs, rule)
    if draws == "per_trial":
        return [ballot.choice(rule.choose(ballot.candidates)) for ballot in found]
    rows: dict[tuple[Settings, Column, str], list[Ballot]] = {}
    for ballot in found:
        settings, column, _, weights = ballot.key
        rows.setdefault((settings, column, weights), []).append(ballot)
    return [choice for trials in rows.values() for choice in _shared(trials, rule)]


def _shared(trials: Sequence[Ballot], rule: Rule) -> list[Choice]:
    by_draw: dict[int, list[Choice]] = {}
    for draw in sorted(set.intersection(*(set(g.candidates.hparams_seed.tolist()) for g in trials)))[::-1]:
        chosen = []
        for ballot in trials:
            at = np.flatnonzero(ballot.candidates.hparams_seed == draw)
            index = rule.choose(ballot.candidates.where(at))
            chosen.append(ballot.choice(None if index is None else int(at[index])))
        by_draw[draw] = chosen
    scores = {
        draw: mean([choice.validation for choice in chosen])
        for draw, chosen in by_draw.items()
        if all(choice.chosen for choice in chosen)
    }
    usable = [draw for draw, score in scores.items() if not math.isnan(score)]
    if not usable:
        return [ballot.choice(None) for ballot in trials]
    return by_draw[max(usable, key=lambda draw: -scores[draw] if rule.lowest else scores[draw])]


def _candidates(runs: Sequence[Run], weights: str, evidence: Evidence) -> Candidates | None:
    numbers, draws, steps, values = [], [], [], []
    for number, run in enumerate(runs):
        rows = run.columns.rows(weights)
        told = evidence(run, rows) if len(rows) else None
        if told is not None:
            numbers.append(np.full(len(rows), number))
            draws.append(np.full(len(rows), run.spec.hparams_seed))
            steps.append(run.columns["step"][rows])
            values.append(told)
    if not values:
        return None
    parts = values[0].keys()
    if any(told.keys() != parts for told in values):
        raise UsageError(f"{runs[0].name} and others of its cell name different parts to select on")
    joined = {part: np.concatenate([told[part] for told in values]) for part in parts}
    return Candidates(np.concatenate(numbers), np.concatenate(draws), np.concatenate(steps), joined)


def _evidence(rule: Rule, done: Sequence[Run]) -> Evidence:
    if rule.evidence == "left_out":
        return _LeftOut(done).accuracies
    if rule.evidence == "metrics":
        assert rule.keys is not None
        keys = rule.keys
        return lambda run, rows: {key: number(run, rows, key) for key in _label_free(run, keys)}
    return lambda run, rows: {part: accuracy(run, rows, part) for part in _parts(run, rule.evidence)}


def _label_free(run: Run, keys: Callable[..., Sequence[str]]) -> Sequence[str]:
    named = keys(run.spec, run.columns.parts)
    sources = {domain_of(part) for part in run.columns.parts.get("validation", ())}
    for key in named:
        domain, name = domain_of(domain_of(key)), key.rpartition("/")[2]
        if domain not in sources and name not in LABEL_FREE:
            free = ", ".join(LABEL_FREE)
            raise UsageError(f"{key} of {run.name} may need target labels; choose a metric from: {free}")
    return named


def _parts(run: Run, kind: str) -> Sequence[str]:
    parts = run.columns.parts.get(kind, ())
    if kind != "oracle":
        for part in parts:
            if part in run.columns.parts["test"] or domain_of(part) in run.spec.test_envs:
                raise UsageError(f"{run.name} names {part}, a part of its target, as validation")
    return parts


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
    """What the run's parts are scored by."""
    return METRICS.get(run.spec.task, DEFAULT_METRIC)


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


def _test(run: Run, weights: str, step: int) -> float:
    rows = run.columns.rows(weights)
    row = rows[run.columns["step"][rows] == step]
    return mean([float(accuracy(run, row, part)[0]) for part in run.columns.parts["test"]])


def domain_of(part: str) -> str:
    """ "sketch/out" -> "sketch"."""
    return part.rpartition("/")[0]
