"""Keep a finished sweep: ``python -m dgbench.publish --input_dir OUT --output_dir results/NAME ...``.

Writes the plan (sweep.json), every record in one file (records.jsonl.gz), the table (table.md) and what it
took (README.md). ``dgbench.collect_results --input_dir results/NAME`` prints the table from these records.
Flags that are not named here are the table's: ``--selection last``, ``--published`` ...
``--also NAME "FLAGS"`` prints one more table of the same records, NAME.md.
"""

import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import collect_results, files, flags, records
from .errors import UsageError, exit_on_usage_error
from .plan import PLAN
from .spec import RunSpec
from .status import finished

TABLE = "table"
"""The first table's name."""


def publish(
    folder: Path, to: Path, command: str, note: str = "", tables: Mapping[str, Sequence[str]] = {TABLE: ()}
) -> None:
    """Write the files, with tables {name: flags}; ``UsageError`` while a run of the sweep is not done."""
    if to.resolve() == folder.resolve():
        raise UsageError(f"--output_dir {to} is the sweep itself; give another folder")
    plan = finished(folder)
    lines = [line for spec in plan for line in _lines(folder / spec.run_id())]
    to.mkdir(parents=True, exist_ok=True)
    for name, chosen in tables.items():  # first: a bad flag ends it here
        printed = ["--format", "markdown", "--output", str(to / f"{name}.md")]
        collect_results.main(["--input_dir", str(folder), *chosen, *printed])
    shutil.copyfile(folder / PLAN, to / PLAN)
    packed = gzip.compress("".join(lines).encode(), mtime=0)  # equal records, equal file
    files.replace(to / records.ARCHIVE, lambda file: file.write(packed))
    files.replace_text(to / "README.md", _about(to, plan, lines, command, note, tables))


def _lines(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def _about(
    to: Path,
    plan: Sequence[RunSpec],
    lines: Sequence[str],
    command: str,
    note: str,
    tables: Mapping[str, Sequence[str]],
) -> str:
    read = [json.loads(line) for line in lines]
    data = " and ".join(sorted({spec.dataset for spec in plan}))
    hours = sum(map(records.seconds, read)) / 3600
    code = ", ".join(sorted({r["code"] for r in read}))
    about = f"""# {to.name}

`{command}`

{len(plan)} runs on {data}, {len(read)} records, {hours:.1f} hours of training and evaluation summed over the
runs, code {code}.
"""
    parts = [about, f"{note}\n"] if note else [about]
    for name, chosen in tables.items():
        printer = " ".join(("python -m dgbench.collect_results --input_dir", f"results/{to.name}", *chosen))
        parts += [f"`{printer}` prints:\n", (to / f"{name}.md").read_text(encoding="utf-8")]
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.publish", description=__doc__.split("\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="a finished sweep's folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="a folder of results/")
    parser.add_argument("--command", required=True, help="the command that made the sweep")
    parser.add_argument("--note", default="", help="what a reader must know: the machine, the protocol")
    parser.add_argument(
        "--also", nargs=2, action="append", default=[], metavar=("NAME", "FLAGS"), help="one more table"
    )
    args, table = parser.parse_known_args(argv)
    tables = {TABLE: table, **{name: chosen.split() for name, chosen in args.also}}
    publish(args.input_dir, args.output_dir, args.command, args.note, tables)
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
