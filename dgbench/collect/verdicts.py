"""Ours against a published number: consistent, higher, lower (with the test), or not comparable and why.

``results/published/protocols.json`` holds what is known of each paper's protocol; null means that it is not.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from . import stats
from .formats import Cell, Row, Table
from .rules import RULES

FIELDS = ("steps", "backbone", "pretrained", "freeze_bn", "draws", "selection")
"""What must agree. Methods and averaging are matched before: they decide which rows are compared."""
IF_TOLD = ("labels_per_class", "image_size")
"""What must agree too, but means nothing for most papers."""
REMARKED = ("checkpoint_freq",)
"""What is told where it differs, and no more."""
FILE = "protocols.json"


@dataclass(frozen=True)
class Protocol:
    """How a published row came about; None is unknown."""

    method: str
    algorithm: str
    averaging: str | None
    trials: int | None
    spread: str | None
    facts: Mapping[str, Any]  # {name of FIELDS and the like: its value}; "hparams": those that must agree
    rules: Sequence[str] = ()  # of the row alone, where its paper has rows of several

    def differs(self, table: Table, row: Row) -> tuple[list[str], list[str], list[str]]:
        """(what differs, what either side leaves open, what is only remarked), in words."""
        ours = {**table.settings, "draws": _draws(row), "selection": table.rule.name}
        differing: list[str] = []
        unknown: list[str] = []
        remarked: list[str] = []
        for name in FIELDS + IF_TOLD + REMARKED:
            theirs, own = self.facts.get(name), ours.get(name)
            if theirs is None or own is None:
                if name in FIELDS or (name in IF_TOLD and theirs is not None):
                    unknown.append(name)
            elif own not in (theirs if isinstance(theirs, list) else [theirs]):
                there = " or ".join(theirs) if isinstance(theirs, list) else theirs
                (remarked if name in REMARKED else differing).append(f"{name} {there} there, {own} here")
        if chosen := {
            k: v for k, v in row.runs[0].spec.hparams.items() if k not in self.facts.get("hparams", {})
        }:
            remarked.append(f"set here: {', '.join(f'{name}={value}' for name, value in chosen.items())}")
        if ours.get("frozen"):
            differing.append("the backbone is trained there, frozen here")
        return differing + self.other_hparams(row), unknown, remarked

    def of_another_rule(self, rule: str) -> bool:
        """Whether the row, unlike others of its paper, came about by another selection rule."""
        return bool(self.rules) and rule not in self.rules

    def other_hparams(self, row: Row) -> list[str]:
        """The hyper-parameters that must agree and do not, in words."""
        ours = json.loads(row.runs[0].hparams) | row.runs[0].spec.hparams  # a run that waits knows its spec
        return [
            f"{name} {value} there, {ours.get(name, 'unknown')} here"
            for name, value in self.facts.get("hparams", {}).items()
            if ours.get(name) != value
        ]


def protocol(folder: Path, stem: str, method: str, dataset: str, table: str) -> Protocol:
    """The protocol of a published row; later wins: the paper's, the data set's, the method's."""
    paper = _read(folder / FILE).get(stem, {})
    own = paper.get("methods", {}).get(method, {})
    facts = {
        **paper.get("facts", {}),
        **paper.get("datasets", {}).get(dataset, {}),
        **own,
        **own.get("datasets", {}).get(dataset, {}),
    }
    facts.setdefault("selection", [table])  # DomainBed's tables are named by their rule
    return Protocol(
        method,
        own.get("algorithm", method),
        facts.get("averaging"),
        facts.get("trials"),
        facts.get("spread"),
        facts,
        own.get("selection", [table] if table in RULES else []),
    )


def remarks(folder: Path, stem: str) -> list[str]:
    """What a reader of a paper's numbers must know."""
    return _read(folder / FILE).get(stem, {}).get("remarks", [])


def averages(folder: Path, stem: str) -> Mapping[str, str]:
    """{column of a paper that is an average over the table's columns: the backbone that it belongs to}."""
    return _read(folder / FILE).get(stem, {}).get("averages", {})


@cache
def _read(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def judge(
    table: Table, ours: Sequence[Row], theirs: Row, known: Protocol
) -> tuple[list[Row], list[tuple[str, str]]]:
    """A row of verdicts for each of our rows that a published row speaks of; (pair, protocol) in words.

    Where some of them have its hyper-parameters, as in an ablation, it speaks of these alone.
    """
    rows, notes = [], []
    same = [row for row in ours if _same_method(row, known)]
    for row in [row for row in same if not known.other_hparams(row)] or same:
        differing, unknown, remarked = known.differs(table, row)
        cells = [
            _verdict(own, cell, known, bool(differing))
            for own, cell in zip(row.cells, theirs.cells, strict=True)
        ]
        average = _verdict(_over_columns(row), theirs.average, known, bool(differing))
        validation = _verdict(row.validation, theirs.validation, known, bool(differing))
        label = f"  {row.label}: verdict"
        rows.append(Row(label, cells, theirs.source, average, verdict_on=row.label, validation=validation))
        told = [f"not comparable: {', '.join(differing)}"] if differing else []
        told += [f"not known: {', '.join(unknown)}"] if unknown else []
        told += remarked
        pair = row.label if row.label == known.method else f"{row.label} with {known.method}"
        notes.append((pair, "; ".join(told) or "same protocol"))
    return rows, notes


def order(pairs: Iterable[tuple[Row, Row]], source: str) -> list[str]:
    """A sentence on whether (ours, published) rank the methods alike; none for fewer than three."""
    from scipy.stats import spearmanr

    scored = [(a, b) for ours, theirs in pairs if (a := _score(ours)) is not None and (b := _score(theirs))]
    if len(scored) < 3:
        return []
    rho = spearmanr(*zip(*scored, strict=True)).statistic
    return [f"order of {len(scored)} rows: Spearman's rank correlation with {source} is {rho:.2f}"]


def _score(row: Row) -> float | None:
    """The average, or the mean of the cells where a paper prints none."""
    if row.average.mean is not None:
        return row.average.mean
    means = [cell.mean for cell in row.cells]
    return sum(means) / len(means) if means and None not in means else None  # type: ignore[arg-type]


def _same_method(row: Row, known: Protocol) -> bool:
    if not row.runs or row.weights != (known.averaging or "raw"):
        return False
    return row.runs[0].spec.algorithm.lower() == known.algorithm.lower()


def _draws(row: Row) -> int | None:
    return len({run.spec.hparams_seed for run in row.runs}) or None


def _over_columns(row: Row) -> Cell:
    """The mean over columns of each trial that all columns have."""
    trials = set.intersection(*(set(cell.scores) for cell in row.cells)) if row.cells else set()
    if row.average.mean is None or not trials:
        return Cell()
    scores = {t: sum(cell.scores[t] for cell in row.cells) / len(row.cells) for t in sorted(trials)}
    return replace(row.average, scores=scores)


def _verdict(ours: Cell, theirs: Cell, known: Protocol, differs: bool) -> Cell:
    if theirs.mean is None:
        return Cell()
    if ours.mean is None or not ours.whole:
        return Cell(printed="no result")
    if differs:
        return Cell(printed="not comparable")
    values = [100 * score for score in ours.scores.values()]
    p = stats.against_published(values, theirs.mean, theirs.error, known.trials, known.spread or "unknown")
    gap = ours.mean - theirs.mean
    if p is None:
        return Cell(printed=f"{gap:+.1f}, no test")
    word = "consistent" if p >= stats.LEVEL else "higher" if gap > 0 else "lower"
    return Cell(printed=f"{word} ({_p(p)})")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"


LEGEND = (
    f"Verdicts at level {stats.LEVEL}: Welch's t-test against the published mean, error and number of trials "
    "where these are known, else a t-test of our trials against the published mean as if it were exact."
)
