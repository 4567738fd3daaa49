"""Write one static HTML page: ``python -m dgbench.report --input_dir DIR [DIR ...] --output report.html``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import files, flags, records
from ..collect import comparison, load, published, rules, tables
from ..collect.formats import Table, comparable
from ..collect.rows import natural
from ..collect.rules import RULES
from ..collect.runs import Run, Sweep
from ..collect.selection import Rule
from ..errors import UsageError, exit_on_usage_error
from ..plan import PLAN
from . import drawings, figures, samples
from .page import Html, document, figure, join, section, tag
from .runs import commands, data, matrix, pictures
from .tables import accuracy_table, averages_table, notes, rank_table

ABOUT = (
    "Every number comes from the records of the runs, by the rule that stands under its table. A cell whose "
    "runs are not all done says how many there are and is in no average."
)
HONEST = (
    "A rule reads only what the sources or label-free metrics tell; the target's accuracy is looked up after "
    "the choice."
)


@dataclass
class Part:
    """A sweep and its tables."""

    folder: Path
    sweep: Sweep
    tables: list[Table]


def write(
    folders: Sequence[Path], output: Path, rule: Rule, oracle: bool = False, data_dir: Path | None = None
) -> None:
    """The page of these folders; ``UsageError`` where one holds no runs."""
    parts = [part for folder in folders for part in _parts(folder, rule, oracle)]
    files.write_output(output, page(parts, data_dir))


def page(parts: Sequence[Part], data_dir: Path | None = None) -> str:
    """The whole page."""
    sections = [_sweep(part, f"sweep-{i}", data_dir) for i, part in enumerate(parts)]
    contents = [(f"sweep-{i}", part.folder.name) for i, part in enumerate(parts)]
    across = _across([table for part in parts for table in part.tables])
    if across:
        sections.append(section("Across data sets", across, "across"))
        contents.append(("across", "Across data sets"))
    sections.append(section("Protocol", _protocol(parts), "protocol"))
    contents.append(("protocol", "Protocol"))
    names = ", ".join(part.folder.name for part in parts)
    return document(f"dgbench: {names}", _facts(parts), contents, join(sections))


def _parts(folder: Path, rule: Rule, oracle: bool) -> list[Part]:
    found = []
    for each in sweeps(folder):
        sweep = load.load(each)
        wanted = [rule, RULES[rules.ORACLE]] if oracle and rule.name != rules.ORACLE else [rule]
        built = []
        for each_rule in wanted:
            made = tables.build(sweep, each_rule)
            comparison.add_trials(made)
            comparison.add_cost(made)
            if any(row.label == "ERM" for table in made for row in table.rows):
                comparison.add_baseline(made)
            published.add(made)
            built += made
        found.append(Part(each, sweep, built))
    return found


def sweeps(folder: Path) -> list[Path]:
    """The folder, or the sweeps in it (``results/``)."""
    if _is_sweep(folder):
        return [folder]
    found = (
        [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_sweep(path)]
        if folder.is_dir()
        else []
    )
    if not found:
        raise UsageError(f"no sweep in {str(folder)!r}; give a sweep's folder, or one that holds sweeps")
    return found


def _is_sweep(folder: Path) -> bool:
    if any((folder / name).exists() for name in (PLAN, records.ARCHIVE)):
        return True
    return folder.is_dir() and any(records.holds_run(path) for path in folder.iterdir())


def _facts(parts: Iterable[Part]) -> Html:
    runs = [run for part in parts for run in part.sweep.runs]
    states = Counter(run.state for run in runs)
    facts = {
        "runs done": f"{states['done']} of {len(runs)}",
        "records": f"{sum(len(run.columns) for run in runs):,}",
        "data sets": len({run.spec.dataset for run in runs}),
        "methods": len({run.spec.algorithm for run in runs}),
        "hours": f"{comparison.cost(runs)[0]:.2f}",
    }
    items = [
        tag("li", join([tag("b", value), tag("span", f" {_named(name, value)}", class_="soft")], ""))
        for name, value in facts.items()
    ]
    return tag("ul", join(items), class_="facts")


def _named(name: str, value: object) -> str:
    return name.removesuffix("s") if value == 1 else name


def _sweep(part: Part, anchor: str, data_dir: Path | None) -> Html:
    body: list[Html] = []
    for i, table in enumerate(part.tables):
        drawn = drawings.of_table(table)
        named = [figure(drawing, f"{table.dataset}-{n}") for n, drawing in enumerate(drawn)]
        content = [accuracy_table(table), tag("div", join(named), class_="figures")]
        body.append(section(_title(table), join(content), f"{anchor}-{i}", 3))
    for rule in dict.fromkeys(table.rule for table in part.tables):
        body += [averages_table(it) for it in tables.averages([t for t in part.tables if t.rule == rule])]
    first = {(table.dataset, table.task, table.variant): table for table in part.tables}
    body.append(section("Runs", join([matrix(table) for table in first.values()]), f"{anchor}-runs", 3))
    if part.sweep.notes:
        body.append(notes(part.sweep.notes))
    body.append(section("Data", _data(part.sweep.runs, data_dir), f"{anchor}-data", 3))
    if seen := pictures(part.folder, part.sweep.runs):
        body.append(section("Pictures", seen, f"{anchor}-pictures", 3))
    told = commands(part.folder, list(first.values()), part.sweep.runs)
    body.append(section("Commands", told, f"{anchor}-commands", 3))
    return section(part.folder.name, join(body), anchor)


def _data(runs: Sequence[Run], data_dir: Path | None) -> Html:
    domains: dict[str, dict[str, None]] = {}
    for run in runs:
        domains.setdefault(run.spec.dataset, {}).update(dict.fromkeys(run.fingerprints))
    strips = [
        samples.of_dataset(name, sorted(found, key=natural), data_dir)
        for name, found in domains.items()
        if found
    ]
    return join([data(runs), *strips])


def _title(table: Table) -> str:
    return ", ".join(filter(None, (table.dataset, table.variant, table.rule.title)))


def _across(found: Sequence[Table]) -> Html:
    pieces: list[Html] = []
    by_rule: dict[str, list[Table]] = {}
    for table in found:
        by_rule.setdefault(table.rule.name, []).append(table)
    for members in by_rule.values():
        for table in comparison.ranks(members):
            pieces.append(rank_table(table))
            result, _ = comparison.rank(comparable(members)[table.task, table.variant])
            assert result is not None
            words = "Average ranks, best left; a bar joins methods that the Nemenyi test does not tell apart."
            drawing = figures.Figure("Critical difference.", words, figures.critical_difference(result), True)
            pieces.append(tag("div", figure(drawing, "ranks"), class_="figures"))
    return join(pieces)


def _protocol(parts: Sequence[Part]) -> Html:
    told = dict.fromkeys(table.rule for part in parts for table in part.tables)
    codes = sorted({code for part in parts for run in part.sweep.runs for code in run.codes})
    items = [tag("li", f"{rule.title}: {rule.sentence}") for rule in told]
    code = [tag("p", f"Code that wrote the records: {', '.join(codes)}.", class_="words")] if codes else []
    about = ABOUT if any(rule.evidence in ("oracle", "test") for rule in told) else f"{ABOUT} {HONEST}"
    return join([tag("p", about), tag("ul", join(items)), *code])


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.report", description=(__doc__ or "").split(":")[0])
    parser.add_argument(
        "--input_dir", type=Path, nargs="+", required=True, help="sweeps, or folders of sweeps"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument(
        "--data_dir", type=Path, help="the folder that holds the data sets, for sample pictures"
    )
    parser.add_argument("--selection", default=rules.DEFAULT, help=f"one of: {', '.join(rules.NAMES)}")
    parser.add_argument("--threshold", type=float, help="of early_stopping")
    parser.add_argument("--metric", help="of label_free")
    parser.add_argument(
        "--oracle", action="store_true", help="also the oracle's tables, which used target labels"
    )
    args = parser.parse_args(argv)
    rule = rules.make(args.selection, args.threshold, args.metric)
    write(args.input_dir, args.output, rule, args.oracle, args.data_dir)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
