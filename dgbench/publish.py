"""Keep a finished sweep: ``python -m dgbench.publish --input_dir OUT --output_dir results/NAME ...``.

Writes the plan (sweep.json), every record in one file (records.jsonl.gz), the table (table.md) and what it
took (README.md). ``dgbench.collect_results --input_dir results/NAME`` prints the table from these records.
Flags that are not named here are the table's: ``--selection last``, ``--published`` ...
"""

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import collect_results, files, flags, records
from .errors import UsageError, exit_on_usage_error
from .plan import PLAN, read_plan
from .spec import RunSpec
from .status import states


def publish(folder: Path, to: Path, command: str, note: str = "", table: Sequence[str] = ()) -> None:
    """Write the four files; ``UsageError`` while a run of the sweep is not done."""
    plan = read_plan(folder)
    missing = [name for name, state in states(folder, plan).items() if state != "done"]
    if missing or not plan:
        raise UsageError(
            f"{folder} has {len(missing)} of {len(plan)} runs that are not done; finish it first"
        )
    lines = [line for spec in plan for line in _lines(folder / spec.run_id())]
    to.mkdir(parents=True, exist_ok=True)
    printed = ["--format", "markdown", "--output", str(to / "table.md")]
    collect_results.main(["--input_dir", str(folder), *table, *printed])  # first: a bad flag ends it here
    shutil.copyfile(folder / PLAN, to / PLAN)
    packed = gzip.compress("".join(lines).encode(), mtime=0)  # equal records, equal file
    files.replace(to / records.ARCHIVE, lambda file: file.write(packed))
    files.replace_text(to / "README.md", _about(to, plan, lines, command, " ".join(table), note))


def _lines(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def _about(
    to: Path, plan: Sequence[RunSpec], lines: Sequence[str], command: str, flags_: str, note: str
) -> str:
    read = [json.loads(line) for line in lines]
    data = " and ".join(sorted({spec.dataset for spec in plan}))
    hours = sum(map(records.seconds, read)) / 3600
    code = ", ".join(sorted({r["code"] for r in read}))
    text = f"""# {to.name}

`{command}`

{len(plan)} runs on {data}, {len(read)} records, {hours:.1f} hours of training and evaluation summed over the
runs, code {code}. Print the table:
`python -m dgbench.collect_results --input_dir {f"results/{to.name} {flags_}".strip()}`
"""
    return text + (f"\n{note}\n" if note else "") + "\n" + (to / "table.md").read_text(encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.publish", description=__doc__.split("\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="a finished sweep's folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="a folder of results/")
    parser.add_argument("--command", required=True, help="the command that made the sweep")
    parser.add_argument("--note", default="", help="what a reader must know: the machine, the protocol")
    args, table = parser.parse_known_args(argv)
    publish(args.input_dir, args.output_dir, args.command, args.note, table)
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
