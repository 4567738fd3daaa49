"""A table and how it is printed: text, markdown, LaTeX (booktabs), CSV."""

import csv as csv_module
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .runs import Run
from .selection import Choice, Column, Rule
from .stats import spread_of

WIDTH = 110


@dataclass(frozen=True)
class Cell:
    """Accuracies of one row and column. ``mean`` and ``error`` in percent; None where there is none."""

    mean: float | None = None
    error: float | None = None
    found: int = 0
    expected: int = 0
    scores: Mapping[int, float] = field(default_factory=dict)  # trial_seed -> accuracy in [0, 1]
    whole: bool = False
    printed: str = ""  # as a paper prints it

    def __str__(self) -> str:
        if self.printed or not self.expected:
            return self.printed or "-"
        if self.mean is None:
            return f"- ({self.found}/{self.expected})"
        if not self.whole:
            return f"{self.mean:.1f} ({self.found}/{self.expected})"
        exact = self.error is None or math.isnan(self.mean)
        return f"{self.mean:.1f}" if exact else f"{self.mean:.1f} +/- {self.error:.1f}"


@dataclass(frozen=True)
class Row:
    """A method with one kind of weights; ``source`` names the paper of a published row."""

    label: str
    cells: Sequence[Cell]
    source: str = ""
    average: Cell = field(default_factory=Cell)
    runs: Sequence[Run] = ()
    weights: str = "raw"
    extra: dict[str, str] = field(default_factory=dict)  # {heading: what stands right of the average}
    verdict_on: str = ""  # our row that a row of verdicts speaks of
    validation: Cell = field(default_factory=Cell)  # the score that chose, mean over the columns


@dataclass
class Table:
    """What is printed. ``variant``: the settings in which it differs from others of its data set."""

    dataset: str
    task: str
    rule: Rule
    variant: str
    columns: list[str]
    rows: list[Row]
    caption: list[str]  # sentences
    notes: list[str]
    settings: Mapping[str, Any] = field(default_factory=dict)  # of its runs
    spread: str = "domainbed"
    choices: Sequence[Choice] = ()
    keys: Sequence[Column] = ()  # (sources, targets) of each column
    published: list[str] = field(default_factory=list)  # notes on the published rows

    @property
    def heading(self) -> str:
        parts = [f"Dataset: {self.dataset}", f"task: {self.task}", f"selection: {self.rule.title}"]
        return ", ".join([*parts, self.variant] if self.variant else parts)


def measure(scores: Mapping[int, float], found: int, expected: int, whole: bool, spread: str) -> Cell:
    """The cell of some trials' accuracies: mean and "+/-" in percent. spread: of ``SPREADS``."""
    if not scores:
        return Cell(found=found, expected=expected)
    values = list(scores.values())
    error = spread_of(values, spread)
    mean = 100 * float(np.mean(values))
    return Cell(mean, None if error is None else 100 * error, found, expected, scores, whole)


def row_of(label: str, cells: Sequence[Cell], **more: Any) -> Row:
    """The row of the cells; it has an average where every cell is whole."""
    means = [cell.mean for cell in cells if cell.whole and cell.mean is not None]
    if not cells or len(means) < len(cells):
        return Row(label, cells, **more)
    expected = sum(cell.expected for cell in cells)
    average = Cell(sum(means) / len(means), None, expected, expected, whole=True)
    return Row(label, cells, average=average, **more)


def span(numbers: Iterable[int], between: str = " to ") -> str:
    """ "3", or "2 to 3" where they differ."""
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}{between}{found[-1]}"


def comparable(tables: Iterable[Table]) -> dict[tuple[str, str], list[Table]]:
    """{(task, variant): tables}, one of each data set: another one is no other evidence."""
    groups: dict[tuple[str, str], dict[str, Table]] = {}
    for table in tables:
        groups.setdefault((table.task, table.variant), {}).setdefault(table.dataset, table)
    return {key: list(members.values()) for key, members in groups.items()}


def text(tables: Sequence[Table]) -> str:
    """Aligned columns, the caption and the notes below."""
    from tabulate import tabulate

    blocks = []
    for table in tables:
        lines = tabulate(body(table), header(table), tablefmt="plain", disable_numparse=True)
        caption = textwrap.fill(" ".join(table.caption), WIDTH)
        notes = [f"- {note}" for note in table.notes + table.published]
        blocks.append("\n".join([f"-------- {table.heading}", lines, "", caption, *notes]))
    return "\n\n".join(blocks) + "\n"


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables; ``|`` is escaped."""
    from tabulate import tabulate

    blocks = []
    for table in tables:
        rows = [[value.replace("|", "\\|") for value in row] for row in [header(table), *body(table)]]
        lines = tabulate(rows[1:], rows[0], tablefmt="pipe", disable_numparse=True)
        notes = "".join(f"\n- {note}" for note in table.notes + table.published)
        blocks.append(f"### {table.heading}\n\n{lines}\n\n{' '.join(table.caption)}\n{notes}".rstrip())
    return "\n\n".join(blocks) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """``table`` environments to ``\\input``; they need the package booktabs."""
    return "\n".join(["% needs \\usepackage{booktabs}", *map(_latex_table, tables)])


def _latex_table(table: Table) -> str:
    rows = list(zip(table.rows, map(_latex_row, body(table)), strict=True))
    ours = [line for row, line in rows if not row.source]
    published = [line for row, line in rows if row.source]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.heading)}. {escape(' '.join(table.caption))}}}",
        rf"  \begin{{tabular}}{{l{'c' * (len(header(table)) - 1)}}}",
        r"    \toprule",
        _latex_row(header(table)),
        r"    \midrule",
        *ours,
        *([r"    \midrule", *published] if published else []),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par{{\footnotesize {escape(note)}}}" for note in table.notes + table.published),
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _latex_row(values: Sequence[str]) -> str:
    return f"    {' & '.join(map(escape, values))} \\\\"


_ESCAPES = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def escape(value: str) -> str:
    """Text as LaTeX prints it; "+/-" becomes its sign."""
    return value.translate(_ESCAPES).replace("+/-", r"$\pm$")


def csv(tables: Sequence[Table]) -> str:
    """One line per cell; mean and error in percent, empty where there is none."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    head = (
        "dataset,task,selection,variant,method,source,column,mean,error,trials,found,expected,whole,verdict"
    )
    more = list(dict.fromkeys(heading for table in tables for heading in extras(table)))
    writer.writerow([*head.split(","), *more])
    for table in tables:
        where = (table.dataset, table.task, table.rule.name, table.variant)
        for row in table.rows:
            for column, cell in zip([*table.columns, "Avg"], [*row.cells, row.average], strict=True):
                numbers = ["" if value is None else f"{value:.4f}" for value in (cell.mean, cell.error)]
                counts = (len(cell.scores), cell.found, cell.expected, int(cell.whole))
                source = row.source or "dgbench"
                told = [row.extra.get(heading, "") if column == "Avg" else "" for heading in more]
                verdict = str(cell) if row.verdict_on else ""
                label = row.verdict_on or row.label
                writer.writerow([*where, label, source, column, *numbers, *counts, verdict, *told])
    return out.getvalue()


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": csv}


def extras(table: Table) -> list[str]:
    """Headings of what stands right of the average."""
    return list(dict.fromkeys(heading for row in table.rows for heading in row.extra))


def header(table: Table) -> list[str]:
    """All headings."""
    return ["Algorithm", *table.columns, "Avg", *extras(table)]


def body(table: Table) -> list[list[str]]:
    """Every row as it is printed."""
    more = extras(table)
    return [
        [row.label, *map(str, row.cells), str(row.average), *(row.extra.get(heading, "") for heading in more)]
        for row in table.rows
    ]
