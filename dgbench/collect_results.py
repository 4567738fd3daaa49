"""Print the tables of a sweep's folder, ours or DomainBed's.

    python -m dgbench.collect_results --input_dir DIR [--selection RULE] [--format FORMAT] [--published]

Selection works on stored records alone, so any rule can be asked for at any time. Missing and failed runs are
listed under the table; they do not change the exit status.
"""

import argparse
import gc
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import files, flags
from .collect import comparison, domainbed_format, published, rules, tables, top
from .collect.formats import FORMATS, Table
from .collect.load import load
from .collect.runs import Sweep
from .collect.selection import DRAWS, Rule
from .collect.stats import SPREADS
from .errors import exit_on_usage_error, unknown

DOMAINBED = {"domainbed": domainbed_format.text, "domainbed-latex": domainbed_format.latex}
"""What DomainBed's own collector prints, whole; no other flag changes it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; ``UsageError`` for bad flags, an empty folder, or runs that must not be averaged."""
    args = _parser().parse_args(argv)
    if args.format not in (*FORMATS, *DOMAINBED):
        raise unknown("format", args.format, (*FORMATS, *DOMAINBED))
    rule = rules.make(args.selection, args.threshold, args.metric)
    sweep = load(args.input_dir, cache=not args.no_cache)
    if args.format in DOMAINBED:
        unfinished = [run.name for run in sweep.runs if run.state != "done" and len(run.columns)]
        if unfinished:
            print(f"counted as DomainBed does, though not done: {', '.join(unfinished)}", file=sys.stderr)
        _write(DOMAINBED[args.format](sweep.runs), args.output)
        return 0
    if args.top is not None:
        _write(top.text(sweep.runs, rule, args.top), args.output)
        return 0
    wanted = [rule]
    if args.oracle and rule.name != rules.ORACLE:
        wanted.append(rules.RULES[rules.ORACLE])
    _write(
        _printed(sweep, [table for each in wanted for table in build(sweep, each, args)], args), args.output
    )
    return 0


def build(sweep: Sweep, rule: Rule, args: argparse.Namespace) -> list[Table]:
    """Every table of a rule that the flags ask for."""
    built = tables.build(sweep, rule, args.draws, args.spread)
    if args.trials:
        comparison.add_trials(built)
    if args.cost:
        comparison.add_cost(built)
    if args.compare:
        comparison.add_baseline(built, args.compare)
    over = tables.averages(built)
    if args.published:
        published.add(built)
    if args.validation:
        comparison.add_validation(built)
    if args.ranks:
        over += (ranks := comparison.ranks(built))
        if not ranks:
            sweep.notes.append("--ranks needs two data sets with two methods that are whole on both")
    return built + over


def _printed(sweep: Sweep, built: list[Table], args: argparse.Namespace) -> str:
    printed = FORMATS[args.format](built)
    told = "\n".join([_summary(sweep), *(f"- {note}" for note in dict.fromkeys(sweep.notes))])
    if args.format not in ("latex", "csv"):
        return f"{told}\n\n{printed}"
    # these hold tables alone
    notes = [f"- {table.heading}: {note}" for table in built for note in table.notes + table.published]
    print("\n".join([told, *(notes if args.format == "csv" else [])]), file=sys.stderr)
    return printed


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="python -m dgbench.collect_results", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--input_dir", type=Path, required=True, help="folder of a sweep, ours or DomainBed's")
    add("--output", type=Path, help="write to this file instead of the terminal")
    formats = ", ".join((*FORMATS, *DOMAINBED))
    add("--format", default="text", help=f"one of: {formats}; default: text")
    add("--latex", dest="format", action="store_const", const="latex", help="--format latex")
    add("--no_cache", action="store_true", help="read every file again, keep nothing")
    group = parser.add_argument_group("selection: which checkpoint and hyper-parameters are reported")
    add = group.add_argument
    add(
        "--selection",
        default=rules.DEFAULT,
        help=f"one of: {', '.join(rules.NAMES)}; default: {rules.DEFAULT}",
    )
    add("--threshold", type=float, help="of early_stopping: a validation accuracy, e.g. 0.95")
    add("--metric", help="of label_free: a recorded metric, e.g. target/all/entropy")
    add(
        "--draws",
        choices=tuple(DRAWS),
        default="per_trial",
        help="chosen anew in each trial, or once",
    )
    add("--oracle", action="store_true", help="also the oracle's tables, which used target labels")
    add("--top", type=int, metavar="N", help="instead of tables: the N best hyper-parameters of every cell")
    group = parser.add_argument_group("what stands in the tables")
    add = group.add_argument
    add(
        "--spread",
        choices=tuple(SPREADS),
        default="domainbed",
        help="+/- is a standard error (divisor n, or n - 1), or the standard deviation of the trials",
    )
    add("--validation", action="store_true", help="a column with the chosen checkpoints' validation accuracy")
    add("--trials", action="store_true", help="a column with the number of trials")
    add("--cost", action="store_true", help="columns with hours and peak memory")
    add("--compare", nargs="?", const="ERM", metavar="ROW", help="paired test against a row; default: ERM")
    add("--ranks", action="store_true", help="average ranks over data sets, with the critical difference")
    add("--published", action="store_true", help="the papers' numbers of the data set, with a verdict")
    return parser


def _summary(sweep: Sweep) -> str:
    states = Counter(run.state for run in sweep.runs)
    told = ", ".join(
        f"{states[state]} {state}" for state in ("done", "running", "failed", "waiting") if states[state]
    )
    records = sum(len(run.columns) for run in sweep.runs)
    return f"Total records: {records}, of {len(sweep.runs)} runs: {told}"


def _write(printed: str, output: Path | None) -> None:
    if output is None:
        print(printed, end="")
    else:
        files.write_output(output, printed)


if __name__ == "__main__":
    gc.disable()  # records hold no cycles; looking for them costs a fifth of the time on 10,000 runs
    exit_on_usage_error(main)
