"""Published numbers as rows beside ours: ``results/published/*.csv``, a file per paper, as printed there."""

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .formats import Cell, Row, Table
from .selection import RULES

FOLDER = Path(__file__).parents[1] / "results" / "published"

_RESNET = {"backbone": "resnet50", "pretrained": "IMAGENET1K_V1"}
_SMALL = {"backbone": "mnist_cnn", "pretrained": "none"}
SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "domainbed": {"": {**_RESNET, "steps": 5001}, "RotatedMNIST": _SMALL, "ColoredMNIST": _SMALL},
    "pcl": {
        "": _RESNET,
        "PACS": {"steps": 4801},
        "OfficeHome": {"steps": 3001},
        "TerraIncognita": {"steps": 5001},
    },
    "ucdir": {"": {"backbone": "resnet50", "pretrained": "MoCo-v2"}},
    "scale": {"": {"backbone": "resnet50"}},
}
"""{file: {data set, or "" for all: {field of RunSpec: its value}}}, without what a paper leaves open."""
REMARKS = {
    "domainbed": "hyper-parameters are the best of 20 draws",
    "pcl": "its row PCL is PCL + SWAD",
    "rcl": "its +/- is the standard deviation of 10 runs",
}


def add(tables: Iterable[Table], folder: Path = FOLDER) -> None:
    """Put the published rows under ours, with a note on what differs; or a note that there are none."""
    for table in tables:
        if not folder.is_dir():
            table.notes.append("published numbers are not available: there is no folder results/published")
            continue
        for path in sorted(folder.glob("*.csv")):
            rows = _rows(path, table)
            table.rows += rows
            if rows:
                table.notes.append(_comparison(path.stem, rows[0].source, table))


def _rows(path: Path, table: Table) -> list[Row]:
    """The rows of a file that have one of our columns and are not of another selection rule."""
    cells: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for line in _read(path):
        about = (line["dataset"], line["task"], line["metric"])
        other_rule = line["table"] in RULES and line["table"] != table.rule.name
        if about == (table.dataset, table.task, "accuracy") and not other_rule:
            key = (line["paper"], line["table"], line["method"])
            cells.setdefault(key, {})[line["column"]] = _cell(line["value"], line["spread"])
    rows = []
    for (paper, _, method), found in cells.items():
        ours = [found.get(column, Cell()) for column in table.columns]
        if any(cell.printed for cell in ours):
            # an average over other columns than ours would mislead
            same = set(found) - {"Avg"} == set(table.columns)
            average = found.get("Avg", Cell()) if same else Cell()
            rows.append(Row(f"{method}, published ({_short(paper)})", ours, _short(paper), average))
    return rows


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


def _comparison(stem: str, source: str, table: Table) -> str:
    """What differs from our runs; a field that either side leaves open is named as unknown."""
    known = SETTINGS.get(stem, {})
    theirs = {**known.get("", {}), **known.get(table.dataset, {})}
    differing, unknown = [], []
    for name in ("steps", "backbone", "pretrained"):
        ours = table.settings.get(name)
        if name not in theirs or ours is None:
            unknown.append(name)
        elif theirs[name] != ours:
            differing.append(f"{name} {theirs[name]} there, {ours} here")
    told = [f"not comparable: {'; '.join(differing)}"] if differing else []
    told += [f"not known whether the same: {', '.join(unknown)}"] if unknown else []
    told = told or ["same steps, backbone and pretrained weights"]
    told += [REMARKS[stem]] if stem in REMARKS else []
    return f"published ({source}): {'; '.join(told)}"
