"""Published numbers as rows beside ours: ``results/published/*.csv``, a file per paper, as printed there."""

import csv
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .. import registry
from ..errors import UsageError
from . import verdicts
from .comparison import VALIDATION
from .formats import Cell, Row, Table

FOLDER = Path(__file__).parents[2] / "results" / "published"


def add(tables: Iterable[Table], folder: Path = FOLDER) -> None:
    """Put the published rows under ours, each followed by its verdicts; or a note that there are none."""
    for table in tables:
        if not folder.is_dir():
            table.published.append(
                "published numbers are not available: there is no folder results/published"
            )
            continue
        ours = list(table.rows)
        by_label = {row.label: row for row in ours}
        for path in sorted(folder.glob("*.csv")):
            published = _rows(path, table)
            compared: dict[str, list[str]] = {}  # {protocol in words: the pairs of rows}
            pairs: dict[str, tuple[Row, Row]] = {}  # {our label: the rows}
            for row, known in published:
                rows, notes = verdicts.judge(table, ours, row, known)
                for verdict in rows:
                    pairs.setdefault(verdict.verdict_on, (by_label[verdict.verdict_on], row))
                table.rows += [row, *rows]
                for pair, told in notes:
                    compared.setdefault(told, []).append(pair)
            if published:
                source = published[0][0].source
                table.published += [
                    f"{', '.join(which)} ({source}): {told}" for told, which in compared.items()
                ]
                table.published += verdicts.order(pairs.values(), source)
                if remarks := verdicts.remarks(folder, path.stem):
                    table.published.append(f"published ({source}): {'; '.join(remarks)}")
            if compared and verdicts.LEGEND not in table.caption:
                table.caption.append(verdicts.LEGEND)
        if len(table.rows) == len(ours):
            table.published.append(f"no published numbers of {table.dataset} are in results/published")


class _Key(NamedTuple):
    """What the lines of one row have in common."""

    paper: str
    table: str
    method: str


def _rows(path: Path, table: Table) -> list[tuple[Row, verdicts.Protocol]]:
    """The rows of a file that have one of our columns and are not of another selection rule.

    Those of the table's rule alone come first: where a paper has rows of several, ours are paired with them.
    """
    cells: dict[_Key, dict[str, Cell]] = {}
    metric = table.settings.get("metric", "accuracy")
    dataset, headings = _names(table.dataset)
    averages = verdicts.averages(path.parent, path.stem)
    backbone = table.settings.get("backbone")
    for line in _read(path):
        about = (line["dataset"], line["task"], line["metric"])
        other_backbone = averages.get(line["column"], backbone) != backbone
        if about == (dataset, table.task, metric) and not other_backbone:
            key = _Key(line["paper"], line["table"], line["method"])
            column = ">".join(headings.get(side.lower(), side) for side in line["column"].split(">"))
            column = "Avg" if line["column"] in averages else column
            cells.setdefault(key, {})[column] = _cell(line["value"], line["spread"])
    rows = []
    others = {"Avg", VALIDATION}
    everywhere = {column for found in cells.values() for column in found} - others
    for key, found in cells.items():
        theirs = [found.get(column, Cell()) for column in table.columns]
        # an average over other columns than ours would mislead
        same = (set(found) - others or everywhere) == set(table.columns)
        average = found.get("Avg", Cell()) if same else Cell()
        if any(cell.printed for cell in (*theirs, average)):
            source = _short(key.paper)
            label, validation = f"{key.method}, published ({source})", found.get(VALIDATION, Cell())
            row = Row(label, theirs, source, average, validation=validation)
            known = verdicts.protocol(path.parent, path.stem, key.method, table.dataset, key.table)
            if not known.of_another_rule(table.rule.name):
                rows.append((row, known))
    return sorted(rows, key=lambda pair: not pair[1].rules)


def _names(dataset: str) -> tuple[str, dict[str, str]]:
    """The data set's name in papers, and {first word of a domain's name, in small letters: its heading}."""
    try:
        data: Any = registry.find("datasets", dataset)
    except UsageError:  # read from another machine, or from DomainBed
        return dataset, {}
    headings = {name.split()[0].lower(): data.columns.get(name, name) for name in data.domains}
    return data.published_as or dataset, headings


def _cell(value: str, spread: str) -> Cell:
    if not spread:
        return Cell(float(value), printed=value)
    return Cell(float(value), float(spread), printed=f"{value} +/- {spread}")


@cache
def _read(path: Path) -> tuple[dict[str, str], ...]:
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _short(paper: str) -> str:
    """ "PCL (Yao et al., CVPR 2022)" -> "PCL, CVPR 2022"; other texts as they are."""
    match = re.match(r"(.+?) \((?:.*, )?([^,()]*\d{4})\)", paper)
    return f"{match[1]}, {match[2]}" if match else paper
