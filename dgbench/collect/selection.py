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

from ..errors import UsageError
from .evidence import Evidence, Keys, accuracy, evidence, is_held_out_pair
from .runs import Run, Settings

Column = tuple[tuple[str, ...], tuple[str, ...]]  # (sources, targets) as in RunSpec
DRAWS = {
    "per_trial": "Chosen per trial.",
    "shared": "Hyper-parameters are chosen once for all trials, by their mean; the checkpoint per trial.",
}


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


@dataclass(frozen=True)
class Rule:
    """A selection rule. ``choose`` returns the index of a candidate, or None where none will do.

    evidence, keys: which numbers its candidates carry; see ``evidence.evidence``.
    """

    name: str
    title: str
    sentence: str
    choose: Callable[[Candidates], int | None]
    evidence: str = "validation"
    keys: Keys | None = None
    lowest: bool = False  # the better end of the score

    def choose_among(self, candidates: Candidates, at: np.ndarray) -> int | None:
        """The choice among the candidates at these indices, as an index into all of them."""
        index = self.choose(candidates.where(at))
        return None if index is None else int(at[index])


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
    read = evidence(rule.evidence, rule.keys, done)
    members: dict[tuple[Settings, Column, int], list[Run]] = {}
    for run in sorted(done, key=lambda run: (-run.spec.hparams_seed, run.name)):
        spec = run.spec
        if not is_held_out_pair(spec):
            key = (run.settings, (spec.source_envs, spec.test_envs), spec.trial_seed)
            members.setdefault(key, []).append(run)
    found = []
    for key, together in members.items():
        for weights in dict.fromkeys(kind for run in together for kind in run.columns.kinds):
            candidates = _candidates(together, weights, read)
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
            chosen.append(ballot.choice(rule.choose_among(ballot.candidates, at)))
        by_draw[draw] = chosen
    if len(by_draw) == 1:
        return next(iter(by_draw.values()))
    scores = {
        draw: mean([choice.validation for choice in chosen])
        for draw, chosen in by_draw.items()
        if all(choice.chosen for choice in chosen)
    }
    usable = [draw for draw, score in scores.items() if not math.isnan(score)]
    if not usable:
        return [ballot.choice(None) for ballot in trials]
    return by_draw[max(usable, key=lambda draw: -scores[draw] if rule.lowest else scores[draw])]


def _candidates(runs: Sequence[Run], weights: str, read: Evidence) -> Candidates | None:
    numbers, draws, steps, values = [], [], [], []
    for number, run in enumerate(runs):
        rows = run.columns.rows(weights)
        told = read(run, rows) if len(rows) else None
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


def _test(run: Run, weights: str, step: int) -> float:
    rows = run.columns.rows(weights)
    row = rows[run.columns["step"][rows] == step]
    return mean([float(accuracy(run, row, part)[0]) for part in run.columns.parts["test"]])
