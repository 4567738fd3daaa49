"""A paper's table: its runs and their cost, what is missing launched, the table with its verdicts.

    python -m dgbench.paper_table pcl_pacs --output_dir runs/pcl_pacs --data_dir DATA [--launcher slurm]

NAME is a file of ``sweeps/``. Flags that are not named here go to ``dgbench.sweep launch``. The same command
again goes on where the last one stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from . import collect_results, flags, registry, sweep
from .errors import exit_on_usage_error
from .spec import RunSpec
from .status import missing, states


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit status 1 while a run is missing."""
    parser = flags.Parser(prog="python -m dgbench.paper_table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help=f"a file of sweeps/: {', '.join(sweep.names())}")
    parser.add_argument("--output_dir", type=Path, help="the sweep's folder; default: runs/NAME")
    parser.add_argument("--data_dir", type=Path, help="the folder that holds the data sets")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the runs and their cost, launch nothing"
    )
    args, others = parser.parse_known_args(argv)
    folder = args.output_dir or Path("runs") / args.name
    command = ["launch", args.name, "--output_dir", str(folder), *others]
    command += ["--data_dir", str(args.data_dir)] if args.data_dir else []
    runs = sweep.runs_of(sweep.parse(command))
    print(about(args.name), end="\n\n", flush=True)
    sweep.main([*command, "--dry_run"])
    status = 0
    if not args.dry_run and missing(folder, runs):
        print(flush=True)
        status = sweep.main(command)
    if not all_waiting(folder, runs):
        print(flush=True)
        collect_results.main(
            ["--input_dir", str(folder), "--cost", "--published", *sweep.table_flags(args.name)]
        )
    if left := missing(folder, runs):
        done = len(runs) - len(left)
        again = "run this without --dry_run" if args.dry_run else "run the same command again"
        print(f"\n{done} of {len(runs)} runs are done. To go on, {again}.")
        print(f"To look on: python -m dgbench.sweep status --output_dir {folder}")
    return status or int(bool(left) and not args.dry_run)


def about(name: str) -> str:
    """What a sweep's file says of its table, protocol and cost."""
    return registry.docstring(sweep.file_of(name)) or name


def all_waiting(folder: Path, runs: Sequence[RunSpec]) -> bool:
    """Whether no run of the table has begun."""
    return set(states(folder, runs).values()) <= {"waiting", "queued"}


if __name__ == "__main__":
    exit_on_usage_error(main)
