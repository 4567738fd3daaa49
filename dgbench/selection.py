"""Rules that choose one record per group, from records alone.

A group is one cell of a table and one trial: its candidates are the evaluated checkpoints of every
hyper-parameter draw. A rule sees a ``Candidate``: step, draw, run and the accuracies that it may use. What
is reported is looked up after the choice, so no rule can read it. The rules are DomainBed's
(model_selection.py), to the digit.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, itemgetter

from .errors import UsageError
from .records import Record, Run, Settings
from .spec import RunSpec

Column = tuple[tuple[str, ...], tuple[str, ...]]  # (sources, targets) as in RunSpec

_HELD_OUT_TASKS = ("domain_generalization", "semi_supervised", "domain_adaptation")


@dataclass(frozen=True)
class Candidate:
    """All that a rule may know of a record."""

    run: str
    hparams_seed: int
    step: int
    validation: Mapping[str, float]  # {"art_painting/out": accuracy}

    @cached_property
    def score(self) -> float:
        """Unweighted mean of the validation accuracies; NaN without any."""
        return mean(list(self.validation.values()))


@dataclass(frozen=True)
class Rule:
    """A selection rule. ``evidence``: which accuracies its candidates carry.

    "validation": the parts that a run names so. "oracle": the target's "out" part. "left_out": each source's
    "in" part in the run that holds it out beside the target.
    """

    name: str
    title: str
    sentence: str
    choose: Callable[[Sequence[Candidate]], Candidate | None]
    evidence: str = "validation"


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


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The first candidate with the highest score. NaN never wins."""
    finite = [candidate for candidate in candidates if not math.isnan(candidate.score)]
    return max(finite, key=attrgetter("score"), default=None)


def last_steps(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The last candidate of each run."""
    return list({candidate.run: candidate for candidate in candidates}.values())


def _best_of_last(candidates: Sequence[Candidate]) -> Candidate | None:
    ends = last_steps(candidates)
    return ends[0] if len(ends) == 1 else best(ends)


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "training_domain_validation",
            "training-domain validation set",
            "Hyper-parameters and checkpoint are those with the best unweighted mean accuracy on the "
            "validation parts of the source domains, chosen per trial.",
            best,
        ),
        Rule(
            "leave_one_domain_out",
            "leave-one-domain-out cross-validation",
            "Hyper-parameters and checkpoint are those with the best mean accuracy on each source domain in "
            "the run that holds it out beside the target, chosen per trial.",
            best,
            evidence="left_out",
        ),
        Rule(
            "oracle",
            "test-domain validation set (oracle)",
            'Hyper-parameters are those with the best accuracy on the target\'s own "out" part at the last '
            "checkpoint, chosen per trial: target labels were used.",
            _best_of_last,
            evidence="oracle",
        ),
        Rule(
            "last",
            "last checkpoint",
            "The last checkpoint; among several hyper-parameters, those with the best unweighted mean "
            "accuracy on the validation parts there, chosen per trial.",
            _best_of_last,
        ),
    )
}


def mean(values: Sequence[float]) -> float:
    """Plain mean, added from left to right as numpy does for few values; NaN for none."""
    total = 0.0
    for value in values:  # sum() rounds differently from Python 3.12 on
        total += value
    return total / len(values) if values else math.nan


def is_held_out_pair(spec: RunSpec) -> bool:
    """A run with two or more targets: never scored, read by leave_one_domain_out."""
    return spec.task in _HELD_OUT_TASKS and len(spec.test_envs) > 1


def select(runs: Iterable[Run], rule: Rule) -> list[Choice]:
    """The choice of every group among the runs that are done.

    A group in which nothing could be chosen, since every validation accuracy is NaN, has ``test`` NaN.
    ``UsageError`` for a record that lacks an accuracy or names the target's as validation.
    """
    done = [run for run in runs if run.state == "done"]
    left_out = _LeftOut(done) if rule.evidence == "left_out" else None
    groups: dict[tuple[Settings, Column, int, str], list[tuple[Run, Record]]] = {}
    # ties go to the first candidate: the lowest draw, then the earliest step
    for run in sorted(done, key=lambda run: (run.spec.hparams_seed, run.name)):
        if is_held_out_pair(run.spec):
            continue
        shared, column = run.settings, (run.spec.source_envs, run.spec.test_envs)
        for record in sorted(run.records, key=itemgetter("step")):
            key = (shared, column, run.spec.trial_seed, record["weights"])
            groups.setdefault(key, []).append((run, record))
    choices = []
    for key, members in groups.items():
        records = {(run.name, record["step"]): record for run, record in members}
        seen = [(run, record, _evidence(run, record, rule, left_out)) for run, record in members]
        candidates = [
            Candidate(run.name, run.spec.hparams_seed, record["step"], accuracies)
            for run, record, accuracies in seen
            if accuracies is not None
        ]
        if candidates:
            chosen = rule.choose(candidates)
            test = math.nan if chosen is None else _test(chosen.run, records[chosen.run, chosen.step])
            told = candidates[0] if chosen is None else chosen
            choices.append(Choice(*key, told.run, told.hparams_seed, told.step, told.score, test))
    return choices


class _LeftOut:
    """For (target, source): the source's accuracy in the run that holds both out, at the same step."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._metrics: dict[tuple[object, ...], Mapping[str, float]] = {}
        for run in runs:
            if is_held_out_pair(run.spec):
                for record in run.records:
                    self._metrics[self._key(run, run.spec.test_envs, record)] = record["metrics"]

    @staticmethod
    def _key(run: Run, targets: Iterable[str], record: Record) -> tuple[object, ...]:
        spec = run.spec
        draw = (spec.trial_seed, spec.hparams_seed, record["weights"], record["step"])
        return (run.settings, frozenset(targets), *draw)

    def accuracies(self, run: Run, record: Record) -> dict[str, float] | None:
        """{source part: accuracy}, or None where the run of any source is missing."""
        found = {}
        for source in dict.fromkeys(map(_domain, record["parts"]["validation"])):
            metrics = self._metrics.get(self._key(run, (*run.spec.test_envs, source), record))
            if metrics is None or f"{source}/in/acc" not in metrics:
                return None
            found[f"{source}/in"] = metrics[f"{source}/in/acc"]
        return found


def _evidence(run: Run, record: Record, rule: Rule, left_out: _LeftOut | None) -> dict[str, float] | None:
    if left_out is not None:
        return left_out.accuracies(run, record)
    parts = record["parts"].get(rule.evidence, [])
    if rule.evidence != "oracle":
        for part in parts:
            if part in record["parts"]["test"] or _domain(part) in run.spec.test_envs:
                raise UsageError(f"{run.name} names {part}, a part of its target, as validation")
    return {part: _accuracy(run.name, record, part) for part in parts}


def _test(run: str, record: Record) -> float:
    return mean([_accuracy(run, record, part) for part in record["parts"]["test"]])


def _accuracy(run: str, record: Record, part: str) -> float:
    try:
        return record["metrics"][f"{part}/acc"]
    except KeyError:
        raise UsageError(f"{run}, step {record['step']}: the record has no {part}/acc") from None


def _domain(part: str) -> str:
    return part.rpartition("/")[0]
