"""How good a run's pseudo-labels were, over its updates: from its records alone. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import records
from .errors import UsageError, extra

NAMES = ("pseudo_acc", "kept_acc", "keep")
Curve = tuple[list[int], list[float]]  # steps, percent


def read(folder: Path) -> Mapping[str, Mapping[str, Curve]]:
    """{source domain: {name: curve}} of the raw weights; ``UsageError`` for a run without pseudo-labels."""
    path = folder / "results.jsonl"
    if not path.is_file():
        raise UsageError(f"no records in {str(folder)!r}; give the folder that dgbench.train wrote")
    found: dict[str, dict[str, Curve]] = {}
    for line in records.read_lines(path)[0]:
        for key, value in line["metrics"].items() if line.get("weights", "raw") == "raw" else ():
            domain, _, name = key.rpartition("/unlabelled/")
            if name in NAMES and value is not None:
                steps, values = found.setdefault(domain, {}).setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(100 * value)
    if not found:
        raise UsageError(f"{folder} records no pseudo-labels; choose a run of a method that makes them")
    return found


def draw(curves: Mapping[str, Mapping[str, Curve]], title: str) -> Any:
    """A matplotlib figure: accuracy of all (dashed) and of the kept pseudo-labels, and the share kept."""
    matplotlib = extra("matplotlib", "a picture", "report")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    right, kept = figure.subplots(1, 2)
    colours = matplotlib.colormaps["tab10" if len(curves) <= 10 else "tab20"]
    for place, (domain, own) in enumerate(curves.items()):
        for axes, name, style in ((right, "pseudo_acc", "--"), (right, "kept_acc", "-"), (kept, "keep", "-")):
            label = domain if axes is kept else None
            axes.plot(*own.get(name, ([], [])), style, color=colours(place), label=label, marker=".")
    right.plot([], [], "--", color="black", label="all")
    right.plot([], [], "-", color="black", label="kept")
    right.set(xlabel="updates", ylabel="right pseudo-labels (%)")
    kept.set(xlabel="updates", ylabel="kept (%)")
    for axes in (right, kept):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
