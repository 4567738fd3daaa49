"""The cost of the harness, as ratios: ``make bench``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tabulate import tabulate

from .. import files, flags
from ..errors import exit_on_usage_error
from .data import evaluation, views
from .launcher import launcher
from .ratio import Ratio
from .retrieval import clustering, ranking
from .runs import runs
from .semi import semi_supervised
from .start import memory, start
from .step import epoch, step
from .vectorize import vectorize

BENCHMARKS: dict[str, Callable[[int], list[Ratio]]] = {
    "step": step,
    "epoch": epoch,
    "views": views,
    "evaluation": evaluation,
    "start": start,
    "memory": memory,
    "launcher": launcher,
    "vectorize": vectorize,
    "runs": runs,
    "semi_supervised": semi_supervised,
    "ranking": ranking,
    "clustering": clustering,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the ratios as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    ratios = [ratio for name in args.names or BENCHMARKS for ratio in BENCHMARKS[name](args.turns)]
    rows = [asdict(ratio) for ratio in ratios]
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    if args.output:
        files.replace_text(args.output, json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
