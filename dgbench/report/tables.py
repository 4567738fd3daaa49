"""A table of accuracies as HTML: ours, and the published rows with their verdicts."""

import math
from collections.abc import Sequence
from typing import Any

from ..collect import formats
from ..collect.formats import Cell, Row, Table
from .page import Html, details, download, escape, join, table, tag


def accuracy_table(found: Table) -> Html:
    """Ours, sortable, the best of each column in bold; notes and the protocol in words below."""
    ours = [row for row in found.rows if not row.source]
    columns = [*found.columns, "Avg"]
    best = [_best([_cells(row)[i] for row in ours]) for i in range(len(columns))]
    more = formats.extras(found)
    rows = [
        [
            row.label,
            *(_accuracy(cell, top) for cell, top in zip(_cells(row), best, strict=True)),
            *(_extra(row.extra.get(name, "")) for name in more),
        ]
        for row in ours
    ]
    parts = [table(["Algorithm", *columns, *more], rows, found.heading)]
    published = [row for row in found.rows if row.source]
    if published:
        parts.append(details("Published numbers and verdicts", _published(found, published), open_=True))
    parts += [tag("p", " ".join(found.caption[:2]), class_="words")]
    parts += [details("Protocol in words", tag("p", " ".join(found.caption[2:]), class_="words"))]
    if found.notes:
        parts.append(notes(found.notes))
    name = "-".join(filter(None, (found.dataset, found.rule.name, found.variant))).replace(" ", "_")
    parts.append(download(f"{name}.csv", formats.csv([found]), "Download this table as CSV"))
    return join(parts)


def averages_table(found: Table) -> Html:
    """Means over data sets, sortable, with their words."""
    rows = [[row.label, *((escape(str(cell)), cell.mean) for cell in _cells(row))] for row in found.rows]
    words = tag("p", " ".join(found.caption), class_="words")
    return join([table(["Algorithm", *found.columns, "Avg"], rows, found.heading), words])


def rank_table(found: Table) -> Html:
    """Average ranks, with their words."""
    rows = [[row.label, (str(row.cells[0]), row.cells[0].mean)] for row in found.rows]
    words = [tag("p", " ".join(found.caption), class_="words")]
    words += [tag("p", note, class_="words") for note in found.notes]
    return join([table(["Algorithm", "Rank"], rows, found.heading, narrow=True), *words])


def _cells(row: Row) -> list[Cell]:
    return [*row.cells, row.average]


def _best(cells: list[Cell]) -> float | None:
    means = [
        cell.mean for cell in cells if cell.mean is not None and cell.whole and not math.isnan(cell.mean)
    ]
    return max(means) if len(means) > 1 else None


def _accuracy(cell: Cell, best: float | None) -> tuple[Html, object]:
    mean, sign, error = str(cell).partition(" +/- ")
    shown = join([mean, tag("span", f" +/- {error}", class_="error")], "") if sign else escape(mean)
    if best is not None and cell.mean == best and cell.whole:
        shown = tag("span", shown, class_="best")
    return shown, cell.mean


def _extra(text: str) -> tuple[Html, object]:
    number = text.removeprefix("< ").partition(" ")[0]
    try:
        return escape(text), float(number)
    except ValueError:
        return escape(text), None


def _published(found: Table, rows: list[Row]) -> Html:
    lines: list[list[Any]] = []
    for row in rows:
        cells = _cells(row)
        if row.verdict_on:
            lines[-1][0] = join([lines[-1][0], _small(f"our {row.verdict_on}:")], "")
            for at, cell in enumerate(cells, 1):
                if str(cell) != "-":
                    shown, number = lines[-1][at]
                    word = str(cell).partition(" ")[0]
                    lines[-1][at] = (join([shown, _small(tag("span", str(cell), class_=word))], ""), number)
        else:
            method = row.label.removesuffix(f", published ({row.source})")
            label = join([method, _small(row.source)], "")
            lines.append([label, *((escape(str(cell)), cell.mean) for cell in cells)])
    listed = table(["Published", *found.columns, "Avg"], lines, f"{found.heading}: published numbers")
    return join([listed, notes(found.published)]) if found.published else listed


def notes(told: Sequence[str]) -> Html:
    """What a reader must know, as a list."""
    return tag("ul", join([tag("li", note) for note in told]), class_="words")


def _small(text: str) -> Html:
    return tag("span", text, class_="small")
