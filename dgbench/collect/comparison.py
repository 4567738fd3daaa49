"""What stands beside the accuracies of a table: cost, trials, the comparison with a baseline; and ranks."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import UsageError
from . import stats
from .directions import TASK
from .formats import Cell, Row, Table, comparable, span
from .runs import Run

HOURS, MEMORY = "Hours", "GB"
TRIALS = "n"
VALIDATION = "Validation"


def finished(runs: Iterable[Run]) -> list[Run]:
    """The runs that are done, each once: a run of retrieval is there in both directions."""
    return list({run.folder or run.name: run for run in runs if run.state == "done"}.values())


def cost(runs: Iterable[Run]) -> tuple[float, float]:
    """(hours of training and evaluation summed, greatest peak memory in GiB) of the runs that are done."""
    done = [run.columns for run in finished(runs)]
    seconds = [float(np.nansum(kept["seconds"])) for kept in done if not np.isnan(kept["seconds"]).all()]
    memory = [float(np.nanmax(kept["memory_gb"])) for kept in done if not np.isnan(kept["memory_gb"]).all()]
    return (sum(seconds) / 3600 if seconds else math.nan), max(memory, default=math.nan)


def add_cost(tables: Iterable[Table]) -> None:
    """A column of hours and one of memory; rows of the same runs (raw, averaged) share them."""
    for table in tables:
        for row in table.rows:
            if row.runs:
                hours, memory = cost(row.runs)
                row.extra.update({HOURS: _number(hours, 2), MEMORY: _number(memory, 1)})
        table.caption.append(
            f"{HOURS}: training and evaluation on one device, summed over the row's runs that are done. "
            f"{MEMORY}: greatest peak memory (GiB; of the GPU, or of the process on a CPU)."
        )


def add_trials(tables: Iterable[Table]) -> None:
    """A column with the number of trials behind a row's cells: "3", or "2-3" where they differ."""
    for table in tables:
        for row in table.rows:
            if row.runs or any(cell.scores for cell in row.cells):
                row.extra[TRIALS] = span((len(cell.scores) for cell in row.cells), "-")
        table.caption.append(f"{TRIALS}: trials per cell.")


def add_validation(tables: Iterable[Table]) -> None:
    """A column with the validation accuracy of what was chosen, of ours and of published rows."""
    for table in tables:
        if table.rule.evidence != "validation" or table.task == TASK:
            table.notes.append(f"no validation accuracy: {table.rule.title} reads none")
            continue
        for row in table.rows:
            row.extra[VALIDATION] = str(row.validation)
        table.caption.append(f"{VALIDATION}: accuracy of the chosen checkpoints on what they were chosen by.")


def add_baseline(tables: Iterable[Table], name: str = "ERM") -> None:
    """A column with the paired difference to the row ``name``; ``UsageError`` if no table has that row."""
    tables = list(tables)
    labels = dict.fromkeys(row.label for table in tables for row in table.rows if row.runs)
    if name not in labels:
        raise UsageError(f"no row {name!r} to compare with; choose from: {', '.join(labels)}")
    for table in tables:
        base = next((row for row in table.rows if row.label == name), None)
        if base is None:
            table.notes.append(f"no row {name} to compare with")
            continue
        others = [row for row in table.rows if row.runs and row is not base]
        if not others:
            table.notes.append(f"no row to compare with {name}")
            continue
        results = [stats.paired(differences(row, base, _units(table))) for row in others]
        adjusted = stats.holm([result.p for result in results])
        for row, result, p in zip(others, results, adjusted, strict=True):
            row.extra.update({f"vs {name}": versus(result), "p": _p(p)})
        pairs = "pairs of equal (trial, target)"
        if table.task == TASK:
            pairs = "pairs of runs, the mean of both directions"
        told = f"vs {name}: mean difference in points over the {span(result.n for result in results)} {pairs}"
        if tested := sum(not math.isnan(p) for p in adjusted):
            told += (
                f", with its 95 % bootstrap interval from {stats.LEAST} pairs on; p of a two-sided "
                f"permutation test with signs flipped (at least {_least(results)} with so many), "
                f"Holm-corrected for {tested} rows"
            )
        table.caption.append(f"{told}.")


def differences(row: Row, base: Row, units: Sequence[object] = ()) -> list[float]:
    """In points, over every (column, trial) that both rows have in whole cells.

    units: of each column; the columns of one are averaged, as they come from the same runs.
    """
    found: dict[tuple[object, int], list[float]] = {}
    for place, (cell, other) in enumerate(zip(row.cells, base.cells, strict=True)):
        for trial in sorted(cell.scores.keys() & other.scores.keys()) if cell.whole and other.whole else ():
            unit = units[place] if units else place
            found.setdefault((unit, trial), []).append(100 * (cell.scores[trial] - other.scores[trial]))
    return [float(np.mean(values)) for values in found.values()]


def _units(table: Table) -> list[object]:
    """Both directions of retrieval are scores of one run."""
    if table.task != TASK:
        return []
    return [frozenset(domain for side in key for domain in side) for key in table.keys]


def _least(results: Sequence[stats.Paired]) -> str:
    """The smallest p that so few pairs can have."""
    return _p(2.0 ** (1 - max(result.n for result in results)))


def versus(result: stats.Paired) -> str:
    """ "+1.2 [0.4, 2.0]"; a dash without pairs."""
    if math.isnan(result.mean):
        return "-"
    interval = "" if math.isnan(result.low) else f" [{result.low:.1f}, {result.high:.1f}]"
    return f"{result.mean:+.1f}{interval}"


def _p(p: float) -> str:
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def ranks(tables: Sequence[Table]) -> list[Table]:
    """Average ranks over data sets with the critical difference: a table for each task and variant."""
    found = []
    for (task, variant), members in comparable(tables).items():
        result, left_out = rank(members)
        if result is None:
            continue
        ordered = sorted(result.ranks.items(), key=lambda item: item[1])
        rows = [Row(label, [Cell(value, printed=f"{value:.2f}")]) for label, value in ordered]
        same = "; ".join(f"{best} to {worst}" for best, worst in result.cliques()) or "none"
        caption = [
            f"Mean over {result.datasets} data sets of a method's rank by its Avg (1: best, ties averaged).",
            f"Nemenyi critical difference at {stats.LEVEL}: {result.critical_difference:.2f}; "
            f"not told apart: {same}.",
            *([f"Friedman test: p {result.p:.2g}."] if not math.isnan(result.p) else []),
        ]
        notes = [f"left out, no average on every data set: {', '.join(left_out)}"] if left_out else []
        found.append(Table("Average ranks", task, members[0].rule, variant, ["Rank"], rows, caption, notes))
    return found


def rank(tables: Sequence[Table]) -> tuple[stats.Ranks | None, list[str]]:
    """Ranks of the methods that have an average in every table, and the others' labels."""
    averages = [
        {row.label: row.average.mean for row in table.rows if row.runs and row.average.mean is not None}
        for table in tables
    ]
    labels = list(dict.fromkeys(row.label for table in tables for row in table.rows if row.runs))
    whole = [label for label in labels if all(label in found for found in averages)]
    if len(whole) < 2 or len(tables) < 2:
        return None, labels
    scores = {label: [found[label] for found in averages] for label in whole}
    return stats.average_ranks(scores), [label for label in labels if label not in whole]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
