"""Print the tables of a sweep's folder, ours or DomainBed's.

    python -m dgbench.collect_results --input_dir DIR [--selection RULE] [--format FORMAT] [--published]

Missing and failed runs are listed under the table; they do not change the exit status.
"""

import argparse
import gc
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .errors import UsageError, exit_on_usage_error, unknown
from .records import Sweep, load

FORMATS = ("text", "markdown", "latex", "csv")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; ``UsageError`` for bad flags, an empty folder, or runs that must not be averaged."""
    args = _parser().parse_args(argv)
    if args.format not in FORMATS:
        raise unknown("format", args.format, FORMATS)
    from . import formats, published, tables  # numpy comes with them
    from .selection import RULES

    if args.selection not in RULES:
        raise unknown("selection", args.selection, RULES)
    sweep = load(args.input_dir)
    built = tables.build(sweep, RULES[args.selection])
    built += tables.averages(built)
    if args.published:
        published.add(built)
    printed = formats.FORMATS[args.format](built)
    told = "\n".join([_summary(sweep), *(f"- {note}" for note in sweep.notes)])
    if args.format in ("latex", "csv"):  # these hold tables alone
        notes = [f"- {table.heading}: {note}" for table in built for note in table.notes]
        print("\n".join([told, *(notes if args.format == "csv" else [])]), file=sys.stderr)
    else:
        printed = f"{told}\n\n{printed}"
    _write(printed, args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dgbench.collect_results", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--input_dir", type=Path, required=True, help="folder of a sweep, ours or DomainBed's"
    )
    parser.add_argument(
        "--selection",
        default="training_domain_validation",
        help="training_domain_validation (default), leave_one_domain_out, last or oracle (target labels)",
    )
    parser.add_argument("--format", default="text", help=f"one of: {', '.join(FORMATS)}; default: text")
    parser.add_argument("--latex", dest="format", action="store_const", const="latex", help="--format latex")
    parser.add_argument("--published", action="store_true", help="published numbers of the data set as well")
    parser.add_argument("--output", type=Path, help="write to this file instead of the terminal")
    return parser


def _summary(sweep: Sweep) -> str:
    states = Counter(run.state for run in sweep.runs)
    told = ", ".join(
        f"{states[state]} {state}" for state in ("done", "running", "failed", "waiting") if states[state]
    )
    records = sum(len(run.records) for run in sweep.runs)
    return f"Total records: {records}, of {len(sweep.runs)} runs: {told}"


def _write(printed: str, output: Path | None) -> None:
    if output is None:
        print(printed, end="")
        return
    aside = output.with_name(output.name + ".part")
    try:
        aside.write_text(printed, encoding="utf-8")
        os.replace(aside, output)
    except OSError as error:
        raise UsageError(f"cannot write {str(output)!r}: {error.strerror}; give --output a file") from error


if __name__ == "__main__":
    gc.disable()  # records hold no cycles; looking for them costs a fifth of the time on 10,000 runs
    exit_on_usage_error(main)
