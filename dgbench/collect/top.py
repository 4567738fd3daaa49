"""The best hyper-parameters of every cell, by validation: ``--top N`` (DomainBed's ``list_top_hparams``)."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .runs import Run
from .selection import Ballot, Rule, ballots


def text(runs: Iterable[Run], rule: Rule, most: int) -> str:
    """For every (row, column, trial): the ``most`` best draws at their chosen checkpoint, best first."""
    if most < 1:
        raise UsageError(f"--top {most} must be at least 1")
    blocks = [_block(ballot, rule, most) for ballot in sorted(ballots(runs, rule), key=_order)]
    return "\n\n".join([f"Best {most} draws by {rule.title}. {rule.sentence}", *blocks]) + "\n"


def _order(ballot: Ballot) -> tuple[str, str, str, int, str]:
    settings, (sources, targets), trial, weights = ballot.key
    told = dict(settings)
    return told["dataset"], told["algorithm"], "+".join((*sources, *targets)), trial, weights


def _block(ballot: Ballot, rule: Rule, most: int) -> str:
    settings, (sources, targets), trial, weights = ballot.key
    told = dict(settings)
    side = " > ".join("+".join(side) for side in (sources, targets) if side)
    lines = [f"-------- {told['dataset']}, {told['algorithm']} ({weights}), {side}, trial {trial}"]
    chosen = []
    for draw in np.unique(ballot.candidates.hparams_seed)[::-1]:
        at = np.flatnonzero(ballot.candidates.hparams_seed == draw)
        if (index := rule.choose_among(ballot.candidates, at)) is not None:
            chosen.append(index)
    score = ballot.candidates.score
    for place, index in enumerate(
        sorted(chosen, key=lambda i: score[i] if rule.lowest else -score[i])[:most], 1
    ):
        choice, run = ballot.choice(index), ballot.runs[int(ballot.candidates.run[index])]
        values = ", ".join(f"{name}={value}" for name, value in sorted(json.loads(run.hparams).items()))
        lines += [
            f"{place:3}. validation {choice.validation:.4f}  test {choice.test:.4f}  step {choice.step}  "
            f"draw {choice.hparams_seed}",
            f"     {values or 'hyper-parameters not recorded'}",
            f"     {Path(run.folder).name if run.folder else run.name}",
        ]
    return "\n".join(lines if chosen else [*lines, "     nothing could be chosen"])
