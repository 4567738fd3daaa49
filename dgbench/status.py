"""How a sweep stands: ``python -m dgbench.sweep status`` and ``logs``, from the files of its runs."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from . import lease, records
from .errors import UsageError, unknown
from .launchers import launches
from .plan import read_plan
from .spec import RunSpec

STATES = ("waiting", "queued", "running", "failed", "done")


def states(folder: Path, runs: Iterable[RunSpec], queued: Iterable[str] = ()) -> dict[str, str]:
    """{run id: one of ``STATES``}. queued: what ``in_flight`` found; only what has not begun is queued."""
    found = {(run_id := spec.run_id()): records.state(folder / run_id) for spec in runs}
    for run_id in queued:
        if found.get(run_id) == "waiting":
            found[run_id] = "queued"
    return found


def finished(folder: Path) -> list[RunSpec]:
    """The planned runs of a sweep; ``UsageError`` unless all are done."""
    plan = planned(folder)
    if left := missing(folder, plan):
        raise UsageError(f"{folder} has {len(left)} of {len(plan)} runs that are not done; finish it first")
    return plan


def planned(folder: Path) -> list[RunSpec]:
    """The planned runs of a sweep; ``UsageError`` if there are none."""
    if plan := read_plan(folder):
        return plan
    raise UsageError(f"{folder} {'holds no sweep' if folder.is_dir() else 'does not exist'}")


def missing(folder: Path, runs: Sequence[RunSpec]) -> list[str]:
    """The runs that are not done."""
    return [name for name, state in states(folder, runs).items() if state != "done"]


def in_flight(folder: Path, ended: Collection[str] = ()) -> dict[str, str]:
    """{run id: who will run it}: in Slurm's queue, or in the list of a launch whose process goes on.

    ``NoAnswer`` if Slurm has to be asked and cannot be.
    """
    found = {run: launch.launcher for launch in launches.living(folder) for run in launch.runs}
    for run, task in launches.slurm_tasks(folder, ended).items():
        found[run] = f"job {task.job} {task.state.lower()}" + (f" ({task.reason})" if task.reason else "")
    return found


def text(folder: Path, runs: Sequence[RunSpec]) -> str:
    """Counts, and a table of the runs that are running, dead or failed."""
    note, queued = "", {}
    try:
        queued = in_flight(folder, ended(folder, runs))
    except UsageError as error:
        note = f"{error}; what is queued is shown as waiting"
    state = states(folder, runs, queued)
    counts = Counter(state.values())
    lines = [", ".join(f"{counts[name]} {name}" for name in STATES), *filter(None, [note])]
    rows = [row for spec in runs if (row := _row(folder, spec, state[spec.run_id()]))]
    rows += _queued_rows([queued[run_id] for run_id in state if state[run_id] == "queued"])
    if rows:
        rows.sort(key=lambda row: STATES.index(row[0]))
        lines += ["", tabulate(rows, headers=["state", "run", "steps", "left", ""], tablefmt="plain")]
    return "\n".join(lines)


def watch(folder: Path, runs: Sequence[RunSpec], seconds: float) -> None:
    """``text`` again and again, until nothing is queued or running."""
    while True:
        told = text(folder, runs)
        print(f"\033[2J\033[H{told}", flush=True)
        if ", 0 queued, 0 running," in told.split("\n")[0]:
            return
        time.sleep(seconds)


def ended(folder: Path, runs: Iterable[RunSpec]) -> list[str]:
    """The runs that are done or have failed."""
    return [run_id for spec in runs if records.has_ended(folder / (run_id := spec.run_id()))]


def _queued_rows(who: Iterable[str]) -> list[list[str]]:
    """One for each array of jobs and reason why it waits; a pool needs none."""
    counts = Counter(text for text in who if text.startswith("job"))
    return [["queued", f"{count} runs", "", "", text] for text, count in counts.items()]


def _row(folder: Path, spec: RunSpec, state: str) -> list[str] | None:
    run_id = spec.run_id()
    if state == "failed":
        error = records.last_line(folder / run_id / "error.txt")
        return [state, run_id, "", "", error]
    if state == "running":
        steps, left = _progress(folder / run_id, spec)
        return [state, run_id, steps, left, str(lease.read(folder / run_id) or "")]
    if state == "waiting" and (holder := lease.read(folder / run_id)):
        steps, _ = _progress(folder / run_id, spec)
        return [state, run_id, steps, "", f"ended without a word: {holder}; launch goes on with it"]
    return None


def _progress(folder: Path, spec: RunSpec) -> tuple[str, str]:
    """(steps done at the last evaluation of all steps, time left by the pace so far)."""
    lines, _ = records.read_lines(folder / "results.jsonl")
    if not lines:
        return f"0/{spec.steps}", ""
    steps, total = lines[-1]["step"] + 1, spec.steps or 0
    since = max(0.0, time.time() - (folder / "results.jsonl").stat().st_mtime)
    left = sum(map(records.seconds, lines)) / steps * (total - steps) - since
    return f"{steps}/{total}", duration(max(0.0, left))


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def log_text(folder: Path, runs: Sequence[RunSpec], name: str) -> str:
    """What is written of a run: its log, its error, and what its tasks on Slurm printed.

    name: a run's, or the beginning of only one run's.
    """
    ids = [spec.run_id() for spec in runs]
    found = [name] if name in ids else [run_id for run_id in ids if name and run_id.startswith(name)]
    if len(found) != 1:
        raise unknown("run", name, ids)
    paths = [folder / found[0] / "log.txt", folder / found[0] / "error.txt"]
    for launch in launches.read_all(folder):
        for array in launch.arrays:
            for i, task in enumerate(array.tasks):
                if found[0] in task:
                    paths += [launch.folder / array.log(i, kind) for kind in ("out", "err")]
    there = [path for path in paths if path.exists()]
    if not there:
        return f"{found[0]} has not begun"
    return "\n".join(f"==> {path} <==\n{path.read_text(errors='replace').rstrip()}\n" for path in there)
