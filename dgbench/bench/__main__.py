"""The cost of the harness, as ratios: ``make bench``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tabulate import tabulate

from .. import files, flags
from ..errors import UsageError, exit_on_usage_error, unknown
from . import compare
from .data import evaluation, views
from .folders import checkpoint, collector
from .methods import methods
from .ratio import Ratio
from .runs import runs
from .semi import semi_supervised
from .start import memory, start
from .step import backbones, epoch, step
from .vectorize import vectorize

BENCHMARKS: dict[str, Callable[[int], list[Ratio]]] = {
    "step": step,
    "backbones": backbones,
    "epoch": epoch,
    "methods": methods,
    "semi_supervised": semi_supervised,
    "views": views,
    "evaluation": evaluation,
    "start": start,
    "memory": memory,
    "vectorize": vectorize,
    "checkpoint": checkpoint,
    "collector": collector,
    "runs": runs,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit status 1 if a ratio is worse than in the baseline."""
    parser = flags.Parser(prog="python -m dgbench.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the ratios as JSON")
    parser.add_argument("--baseline", type=Path, help="a file that --output wrote: mark what got worse since")
    parser.add_argument("--tolerance", type=float, default=0.1, help="share by which a ratio may be worse")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in BENCHMARKS:
            raise unknown("bench", name, BENCHMARKS)
    before = compare.read(args.baseline) if args.baseline else None
    torch.set_num_threads(args.threads)
    ratios: list[Ratio] = []
    for name in args.names or BENCHMARKS:
        try:
            ratios += BENCHMARKS[name](args.turns)
        except UsageError as error:
            print(f"left out: {name} ({error})")
    rows = [asdict(ratio) for ratio in ratios]
    if before is not None:
        rows = compare.compared(rows, before, args.tolerance)
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    if args.output:
        files.replace_text(args.output, json.dumps(rows, indent=1))
    return int(any(row.get("change") == "worse" for row in rows))


if __name__ == "__main__":
    exit_on_usage_error(main)
