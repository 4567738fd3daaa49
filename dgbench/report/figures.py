"""Figures as inline SVG that follow the page's colours. Matplotlib comes with the extra ``report``."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..collect.stats import LEVEL, Ranks
from ..errors import extra

SERIES = 8
"""Colours of the page, ``--s1`` ... in page.css; more methods are told apart by their markers."""
ACCURACY = "accuracy (%)"
MARKERS = "osD^vP*X"
LEGEND_LINE = 0.2
"""Inches."""
OWN = "figure@"
"""Stands before a drawing's identifiers until the page knows which figure it is."""
_INK, _FAINT, _PAPER = "#010101", "#020202", "#030303"
_COLOURS = {_INK: "var(--ink)", _FAINT: "var(--line)", _PAPER: "var(--card)"} | {
    f"#0400{i:02x}": f"var(--s{i})" for i in range(1, SERIES + 1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dgbench",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Line:
    """One curve; ``dashed`` for validation."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    place: int  # of the method: its colour and marker
    dashed: bool = False


@dataclass(frozen=True)
class Bars:
    """One method's accuracies over the columns, in percent; None where there is none."""

    label: str
    means: Sequence[float | None]
    errors: Sequence[float | None]
    place: int


@dataclass(frozen=True)
class Point:
    """A method by a number and its accuracy."""

    label: str
    x: float
    y: float
    place: int


@dataclass(frozen=True)
class Figure:
    """A drawing with its words."""

    title: str
    caption: str
    svg: str
    wide: bool = False
    data: Sequence[Mapping[str, Any]] = ()  # what was drawn


def colour(place: int) -> str:
    """The placeholder of a method's colour."""
    return f"#0400{place % SERIES + 1:02x}"


def marker(place: int) -> str:
    """A method's marker; methods of one colour differ in it."""
    return MARKERS[(place + place // SERIES) % len(MARKERS)]


def bars(columns: Sequence[str], methods: Sequence[Bars], unit: str = ACCURACY) -> str:
    """Grouped bars: a group per column, a bar per method."""
    with _axes(max(5.0, 0.9 * len(columns) + 0.9), 3.2) as drawing:
        width = 0.82 / len(methods)
        for i, method in enumerate(methods):
            at = [c + (i - (len(methods) - 1) / 2) * width for c in range(len(columns))]
            means = [np.nan if mean is None else mean for mean in method.means]
            errors = [0.0 if error is None else error for error in method.errors]
            drawing.axes.bar(at, means, 0.92 * width, color=colour(method.place), label=method.label)
            drawing.axes.errorbar(at, means, errors, fmt="none", ecolor=_INK, elinewidth=0.8)
        drawing.axes.set_xticks(range(len(columns)), columns)
        drawing.axes.grid(axis="x", visible=False)
        drawing.axes.set_ylabel(unit)
        drawing.axes.set_ylim(bottom=bottom(methods))
        drawing.legend()
        return drawing.svg()


def bottom(methods: Sequence[Bars]) -> float:
    """Where the axis of ``bars`` starts: a multiple of ten below every bar."""
    lowest = min((mean for method in methods for mean in method.means if mean is not None), default=0.0)
    return 0.0 if math.isnan(lowest) else max(0.0, 10 * (lowest // 10 - 1))


def curves(lines: Sequence[Line], unit: str = ACCURACY) -> str:
    """Accuracy, or another number, over updates."""
    with _axes(5.0, 3.2) as drawing:
        for line in lines:
            drawing.axes.plot(
                line.x,
                line.y,
                color=colour(line.place),
                linestyle="--" if line.dashed else "-",
                marker="" if line.dashed else marker(line.place),
                markersize=3.5,
                label=None if line.dashed else line.label,
            )
        drawing.axes.set_xlabel("updates")
        drawing.axes.set_ylabel(unit)
        drawing.legend()
        return drawing.svg()


def points(
    found: Sequence[Point], label: str, log: bool = False, names: bool = True, unit: str = ACCURACY
) -> str:
    """Accuracy against a number; ``names`` writes the method beside each point, else in a legend."""
    with _axes(5.0, 3.2) as drawing:
        seen = set()
        for point in found:
            drawing.axes.plot(
                [point.x],
                [point.y],
                marker(point.place),
                color=colour(point.place),
                label=None if names or point.label in seen else point.label,
            )
            seen.add(point.label)
        if names:
            drawing.axes.margins(0.25, 0.15)
            for point in found:
                drawing.axes.annotate(
                    point.label, (point.x, point.y), xytext=(6, 4), textcoords="offset points", fontsize=9
                )
        if log:
            drawing.axes.set_xscale("log")
        drawing.axes.set_xlabel(label)
        drawing.axes.set_ylabel(unit)
        if not names:
            drawing.legend()
        return drawing.svg()


def critical_difference(ranks: Ranks) -> str:
    """Average ranks on a line, best left; bars join methods that are not told apart (Demsar 2006)."""
    ordered = sorted(ranks.ranks.items(), key=lambda item: item[1])
    cliques = ranks.cliques()
    half = (len(ordered) + 1) // 2
    height = 0.7 + 0.22 * half + 0.12 * len(cliques)
    with _axes(6.0, max(1.6, height)) as drawing:
        axes, most = drawing.axes, len(ordered)
        axes.set_xlim(0.2, most + 0.8)
        base = 0.4 - 0.35 * len(cliques)
        axes.set_ylim(base - half - 0.9, 1.1)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.set_xticks(range(1, most + 1))
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["top"].set_visible(True)
        low, end = base - half - 0.6, 1 + ranks.critical_difference
        axes.plot([1, end], [low, low], color=_INK, linewidth=2)
        axes.text(
            end + 0.15, low, f"CD {ranks.critical_difference:.2f} (level {LEVEL})", fontsize=9, va="center"
        )
        for i, (best, worst) in enumerate(cliques):
            y = 0.6 - 0.35 * i
            axes.plot([ranks.ranks[best] - 0.04, ranks.ranks[worst] + 0.04], [y, y], color=_INK, linewidth=3)
        for i, (name, rank) in enumerate(ordered):
            left = i < half
            y = base - (i if left else most - 1 - i)
            end = 0.6 if left else most + 0.4
            axes.plot([rank, rank, end], [1.1, y, y], color=_INK, linewidth=0.8)
            axes.text(end, y + 0.1, f"{name} {rank:.2f}", ha="left" if left else "right", fontsize=9)
        return drawing.svg()


class _Drawing:
    def __init__(self, figure: Any, axes: Any) -> None:
        self.figure, self.axes = figure, axes

    def legend(self) -> None:
        """Above the plot, in as many columns as fit; the drawing is the higher for a second line."""
        handles, labels = self.axes.get_legend_handles_labels()
        if labels:
            fitting = int(self.figure.get_figwidth() * 13 / (max(map(len, labels)) + 5))
            columns = max(1, min(len(labels), fitting))
            lines = math.ceil(len(labels) / columns)
            self.figure.set_figheight(self.figure.get_figheight() + LEGEND_LINE * (lines - 1))
            self.axes.legend(
                handles,
                labels,
                loc="lower left",
                bbox_to_anchor=(0, 1.0),
                ncols=columns,
                fontsize=9,
                borderaxespad=0.2,
                handlelength=1.4,
                columnspacing=1.2,
            )

    def svg(self) -> str:
        """Without header, sizes and identifiers that nothing refers to."""
        out = io.StringIO()
        self.figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
        return _inline(out.getvalue())


@contextmanager
def _axes(width: float, height: float) -> Iterator[_Drawing]:
    """One pair of axes in the page's style."""
    matplotlib = extra("matplotlib", "the report", "report")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(width, height), layout="constrained")
        yield _Drawing(figure, figure.add_subplot())


def _inline(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{OWN}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{OWN}", svg.replace("xlink:href", "href"))
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    for placeholder, variable in _COLOURS.items():
        svg = svg.replace(placeholder, variable)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
