"""Which figures belong to a table, from its rows, its choices and its runs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..collect import evidence
from ..collect.comparison import cost, finished
from ..collect.evidence import metric
from ..collect.formats import Row, Table
from ..collect.runs import Run
from ..collect.selection import ballots, mean
from . import figures
from .figures import Bars, Figure, Line, Point

MOST = figures.SERIES
"""Methods in one figure; the table has them all."""
MOST_HPARAMS = 6
BASELINE = "ERM"


def of_table(table: Table) -> list[Figure]:
    """Bars, curves, pseudo-labels, sensitivity and cost, each where there is something to draw."""
    rows = [row for row in table.rows if not row.source]
    shown = _shown(rows)
    curves = [_curves(table, shown), _pseudo_labels(table, shown)]
    known = {id(row) for _, row in shown}
    rest = enumerate((row for row in rows if id(row) not in known), MOST)
    found = [_bars(table, shown), *curves, _cost(table, [*shown, *rest]), *_sensitivity(table, shown)]
    return [drawing for drawing in found if drawing is not None]


def _shown(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """(place, row): all, or the baseline and the best others by average. A place is a colour and a marker."""
    base = next((i for i, row in enumerate(rows) if row.label == BASELINE), 0)
    order = sorted((i for i in range(len(rows)) if i != base), key=lambda i: -_score(rows[i]))
    return [(place, rows[i]) for place, i in enumerate(sorted([base, *order[: MOST - 1]]))] if rows else []


def _score(row: Row) -> float:
    means = [cell.mean for cell in row.cells if cell.mean is not None and not math.isnan(cell.mean)]
    return mean(means) if means else -1.0


def _left_out(rows: Sequence[object], table: Table) -> str:
    all_ = sum(not row.source for row in table.rows)
    return f" {BASELINE} or the first row, and the best others of {all_} rows." if len(rows) < all_ else ""


def _score_of(table: Table) -> tuple[str, str]:
    """(name, label of an axis) of what a table's cells are."""
    metric = table.settings.get("metric")
    return (metric, f"{metric} (%)") if metric else ("Accuracy", figures.ACCURACY)


def _bars(table: Table, shown: Sequence[tuple[int, Row]]) -> Figure | None:
    methods = [
        Bars(row.label, [cell.mean for cell in row.cells], [cell.error for cell in row.cells], place)
        for place, row in shown
        if any(cell.mean is not None for cell in row.cells)
    ]
    if not methods:
        return None
    data = [
        {"method": method.label, "column": column, "mean": value, "error": error}
        for method in methods
        for column, value, error in zip(table.columns, method.means, method.errors, strict=True)
    ]
    start = figures.bottom(methods)
    words = "Whiskers: standard error over trials." + _left_out(methods, table)
    words += f" The axis starts at {start:.0f}." if start else ""
    wide = len(table.columns) * len(methods) > 18
    name, unit = _score_of(table)
    svg = figures.bars(table.columns, methods, unit)
    return Figure(f"{name} per domain.", words, svg, wide, data)


def _curves(table: Table, shown: Sequence[tuple[int, Row]]) -> Figure | None:
    kinds = {kind: partial(_scores, kind=kind) for kind in ("test", "validation")}
    words = "Solid: target. Dashed: validation parts of the sources, if any. Means over the chosen runs."
    return _over_updates(table, shown, kinds, "Learning curves.", words, _score_of(table)[1])


def _pseudo_labels(table: Table, shown: Sequence[tuple[int, Row]]) -> Figure | None:
    kinds = {name: partial(_named, ending=f"/unlabelled/{name}") for name in ("pseudo_acc", "keep")}
    words = "Solid: right pseudo-labels. Dashed: images kept to train on. Means over sources and chosen runs."
    return _over_updates(table, shown, kinds, "Pseudo-labels.", words, "unlabelled images (%)")


def _over_updates(
    table: Table,
    shown: Sequence[tuple[int, Row]],
    kinds: Mapping[str, Callable[[Run], list[str]]],
    title: str,
    words: str,
    label: str,
) -> Figure | None:
    """A solid line for each row from the columns of the first kind, a dashed one from those of the second."""
    lines, data = [], []
    for place, row in shown:
        chosen = _chosen(table, row)
        for dashed, (kind, names) in enumerate(kinds.items()):
            steps, values = _curve(chosen, row.weights, names)
            if len(steps) > 1:
                lines.append(Line(row.label, steps, values, place, bool(dashed)))
                data += [
                    {"method": row.label, "part": kind, "step": int(step), "accuracy": round(value, 4)}
                    for step, value in zip(steps, values, strict=True)
                ]
    return Figure(title, words, figures.curves(lines, label), data=data) if lines else None


def _chosen(table: Table, row: Row) -> list[Run]:
    """The runs that selection chose for a row."""
    by_column = {(run.name, (run.spec.source_envs, run.spec.test_envs)): run for run in row.runs}
    keys = {run.settings for run in row.runs}
    return [
        by_column[choice.run, choice.column]
        for choice in table.choices
        if choice.chosen and choice.weights == row.weights and choice.settings in keys
    ]


def _scores(run: Run, kind: str) -> list[str]:
    return [f"{part}/{metric(run)}" for part in run.columns.parts.get(kind, ())]


def _named(run: Run, ending: str) -> list[str]:
    return [name for name in run.columns.names if name.endswith(ending)]


def _curve(
    runs: Sequence[Run], weights: str, names: Callable[[Run], list[str]]
) -> tuple[list[float], list[float]]:
    """(steps, mean in percent of the columns ``names``) of the runs, at the steps that all of them have."""
    series = []
    for run in runs:
        rows, found = run.columns.rows(weights), names(run)
        if len(rows) and found:
            values = np.mean([evidence.number(run, rows, name) for name in found], axis=0)
            series.append(dict(zip(run.columns["step"][rows].tolist(), values.tolist(), strict=True)))
    if not series:
        return [], []
    steps = sorted(set.intersection(*(set(each) for each in series)))
    return steps, [100 * mean([each[step] for each in series]) for step in steps]


def _cost(table: Table, rows: Sequence[tuple[int, Row]]) -> Figure | None:
    points = []
    for place, row in rows:
        done = len(finished(row.runs))
        minutes = 60 * cost(row.runs)[0] / done if done else math.nan
        average = math.nan if row.average.mean is None else row.average.mean
        if not math.isnan(minutes + average):
            points.append(Point(row.label, minutes, average, place))
    if not points:
        return None
    data = [{"method": point.label, "minutes": point.x, "accuracy": point.y} for point in points]
    words = "Avg against the mean minutes of a run; averaged weights share their run."
    name, unit = _score_of(table)
    svg = figures.points(points, "minutes per run", names=len(points) <= MOST, unit=unit)
    return Figure(f"{name} against cost.", words, svg, data=data)


def _sensitivity(table: Table, shown: Sequence[tuple[int, Row]]) -> list[Figure]:
    """For each hyper-parameter that was drawn: the validation accuracy of every draw."""
    values: dict[str, list[Point]] = {}
    for place, row in shown:
        if row.weights != "raw" or len({run.spec.hparams_seed for run in row.runs}) < 2:
            continue
        for ballot in ballots(row.runs, table.rule):
            if ballot.key[3] != row.weights:
                continue
            for number, run in enumerate(ballot.runs):
                at = np.flatnonzero(ballot.candidates.run == number)
                if (index := table.rule.choose_among(ballot.candidates, at)) is not None:
                    score = 100 * float(ballot.candidates.score[index])
                    for name, value in _numbers(run).items():
                        values.setdefault(name, []).append(Point(row.label, value, score, place))
    found = []
    varying = {name: points for name, points in values.items() if len({point.x for point in points}) > 2}
    for name, points in sorted(varying.items())[:MOST_HPARAMS]:
        low, high = min(point.x for point in points), max(point.x for point in points)
        data = [{"method": p.label, name: p.x, "validation": p.y} for p in points]
        svg = figures.points(points, name, log=low > 0 and high / low > 20, names=False)
        words = (
            "Each draw at its chosen checkpoint, by the score that selection reads; the target is not shown."
        )
        found.append(Figure(f"Sensitivity to {name}.", words, svg, data=data))
    return found


def _numbers(run: Run) -> Mapping[str, float]:
    values = json.loads(run.hparams)
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
