"""What DomainBed's own collector prints for the same records: its text and its LaTeX document, to the byte.

Its habits are kept: three selection rules one after the other, runs that are not done count, a column is cut
at its width (in LaTeX too, where a long name then does not compile; ``--format latex`` does), and an average
over data sets covers the cells that exist.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .. import registry
from ..errors import UsageError
from . import directions
from .evidence import domain_of
from .rows import natural, weights_label
from .rules import RULES
from .runs import Run, Settings
from .selection import select
from .stats import spread_of

_METHODS = """ERM ERMPlusPlus Fish IRM GroupDRO Mixup MLDG CORAL MMD DANN CDANN MTL SagNet ARM VREx RSC SD
ANDMask SANDMask IGA SelfReg Fishr TRM IB_ERM IB_IRM CAD CondCAD Transfer CausIRL_CORAL CausIRL_MMD EQRM
RDM ADRMX URM"""
_DATASETS = """Debug28 Debug224 ColoredMNIST RotatedMNIST VLCS PACS OfficeHome TerraIncognita DomainNet SVIRO
WILDSCamelyon WILDSFMoW SpawriousO2O_easy SpawriousO2O_medium SpawriousO2O_hard SpawriousM2M_easy
SpawriousM2M_medium SpawriousM2M_hard"""
METHODS, DATASETS = _METHODS.split(), _DATASETS.split()
"""In DomainBed's order; others come after, by name."""
COLUMN, WIDE = 20, 25  # widths in a data set's table and in the averages

Score = dict[str, dict[str, dict[str, dict[int, float]]]]  # method -> data set -> target -> trial -> accuracy


def text(runs: Sequence[Run]) -> str:
    """DomainBed's ``results.txt``."""
    return _document(runs, latex=False)


def latex(runs: Sequence[Run]) -> str:
    """DomainBed's ``results.tex``."""
    return _document(runs, latex=True)


def _document(runs: Sequence[Run], latex: bool) -> str:
    total = sum(len(run.columns) for run in runs)
    pooled = _pooled(runs)
    lines = [f"Total records: {total}"]
    if latex:
        lines = [
            r"\documentclass{article}",
            r"\usepackage{booktabs}",
            r"\usepackage{adjustbox}",
            r"\begin{document}",
            r"\section{Full DomainBed results}",
            f"% Total records: {total}",
        ]
    for name in ("training_domain_validation", "leave_one_domain_out", "oracle"):
        rule = RULES[name]
        if latex:
            lines += ["", rf"\subsection{{Model selection: {rule.title}}}"]
        score: Score = {}
        for choice in select(pooled, rule):
            told = dict(choice.settings)
            if choice.chosen:
                method = told["algorithm"] + weights_label(choice.weights)
                cell = score.setdefault(method, {}).setdefault(told["dataset"], {})
                cell.setdefault(choice.column[1][0], {})[choice.trial_seed] = choice.test
        lines += _tables(pooled, score, rule.title, latex)
    return "\n".join([*lines, *([r"\end{document}"] if latex else [])]) + "\n"


def _tables(runs: Sequence[Run], score: Score, title: str, latex: bool) -> list[str]:
    methods = _ordered({_method(run, kind) for run in runs for kind in run.columns.kinds}, METHODS)
    datasets = _ordered({run.spec.dataset for run in runs}, DATASETS)
    lines: list[str] = []
    for dataset in datasets:
        targets = _targets([run for run in runs if run.spec.dataset == dataset])
        rows = [
            [list(score.get(method, {}).get(dataset, {}).get(target, {}).values()) for target in targets]
            for method in methods
        ]
        if latex:
            lines += ["", rf"\subsubsection{{{dataset}}}"]
        heading = f"Dataset: {dataset}, model selection method: {title}"
        lines += _table(heading, methods, list(targets.values()), rows, COLUMN, latex)
    if latex:
        lines += ["", r"\subsubsection{Averages}"]
    rows = [[_over_targets(score.get(method, {}).get(name, {})) for name in datasets] for method in methods]
    return lines + _table(f"Averages, model selection method: {title}", methods, datasets, rows, WIDE, latex)


def _over_targets(cells: Mapping[str, Mapping[int, float]]) -> list[float]:
    """Each trial's mean over the targets that it has."""
    trials = sorted({trial for cell in cells.values() for trial in cell})
    return [float(np.mean([cell[trial] for cell in cells.values() if trial in cell])) for trial in trials]


def _table(
    heading: str,
    methods: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[Sequence[float]]],
    width: int,
    latex: bool,
) -> list[str]:
    header = ["Algorithm", *columns, "Avg"]
    if latex:
        header = [rf"\textbf{{{name.replace('%', chr(92) + '%')}}}" for name in header]
    body = [
        _line([method, *_cells(row, latex)], width, latex) for method, row in zip(methods, rows, strict=True)
    ]
    if not latex:
        return ["", f"-------- {heading}", _line(header, width, latex), *body]
    return [
        "",
        r"\begin{center}",
        r"\adjustbox{max width=\textwidth}{%",
        rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        _line(header, width, latex),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{center}",
    ]


def _cells(row: Sequence[Sequence[float]], latex: bool) -> list[str]:
    sign = r"$\pm$" if latex else "+/-"
    means = [100 * float(np.mean(values)) for values in row if values]
    cells = [
        f"{100 * np.mean(values):.1f} {sign} {100 * (spread_of(values) or 0.0):.1f}" if values else "X"
        for values in row
    ]
    return [*cells, f"{sum(means) / len(means):.1f}" if len(means) == len(row) else "X"]


def _line(values: Sequence[str], width: int, latex: bool) -> str:
    fitted = [value.ljust(width)[:width] for value in values]
    return " & ".join(fitted) + r" \\" if latex else "  ".join(fitted) + " "


def _pooled(runs: Iterable[Run]) -> list[Run]:
    """The runs as DomainBed tells them apart: by data set and method alone."""
    found: dict[tuple[str, str], set[Settings]] = {}
    pooled = []
    for run in runs:
        if run.spec.test_envs and run.spec.task != directions.TASK and len(run.columns):
            found.setdefault((run.spec.dataset, run.spec.algorithm), set()).add(run.settings)
            shared = (("dataset", run.spec.dataset), ("algorithm", run.spec.algorithm))
            pooled.append(replace(run, state="done", settings=shared))
    for (dataset, method), several in found.items():
        if len(several) > 1:
            values = [dict(settings) for settings in several]
            differing = [name for name in values[0] if len({str(each[name]) for each in values}) > 1]
            raise UsageError(
                f"DomainBed would mix runs of {method} on {dataset} that differ in {', '.join(differing)}; "
                "choose another --format, or a folder for each"
            )
    if not pooled:
        raise UsageError("no run here has a target domain and records; choose another --format")
    return pooled


def _method(run: Run, kind: str) -> str:
    return run.spec.algorithm + weights_label(kind)


def _targets(runs: Sequence[Run]) -> dict[str, str]:
    """{domain: heading}, in the data set's order."""
    parts = runs[0].columns.parts
    found = {domain_of(part) for kind in ("validation", "oracle") for part in parts.get(kind, ())}
    try:
        dataset = registry.find("datasets", runs[0].spec.dataset)
    except UsageError:
        return {name: name.removeprefix("env") for name in sorted(found, key=natural)}
    names = [name for name in getattr(dataset, "domains", ()) if name in found] or sorted(found)
    return {name: getattr(dataset, "columns", {}).get(name, name) for name in names}


def _ordered(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Known names in their order, each followed by its averaged weights; then the others."""
    place = {name: i for i, name in enumerate(known)}
    return sorted(names, key=lambda name: (place.get(name.partition(" + ")[0], len(known)), name))
