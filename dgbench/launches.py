"""What was launched and may still be going on: ``SWEEP/.submit/<time>-<8 hex digits>/launch.json``.

A local launch holds its folder's lease for as long as it lives. A launch on Slurm is known by the names of
its jobs, which are written before they are submitted: a job that the controller took while the client was
told otherwise is found again.
"""

import json
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import files, lease, squeue

FOLDER, SLURM = ".submit", "slurm"


@dataclass
class Array:
    """An array of jobs: its name, its id once it is known, and the runs of each task."""

    name: str
    tasks: list[list[str]]
    job: str = ""

    def log(self, task: int, kind: str) -> str:
        """The file in the launch's folder that has a task's output (kind: out or err)."""
        index = f"_{task}" if len(self.tasks) > 1 else ""
        return f"{self.job}{index}_0_log.{kind}"


@dataclass
class Launch:
    """One call of ``sweep launch``. runs: of a local one, arrays: of one on Slurm."""

    folder: Path
    launcher: str
    runs: list[str] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)  # parameters and version, for the reader

    @property
    def id(self) -> str:
        return self.folder.name[-8:]

    def write(self) -> None:
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        files.replace_text(self.folder / "launch.json", json.dumps(values))


def create(sweep: Path, launcher: str, runs: Sequence[str] = (), **told: Any) -> Launch:
    """A new one with a folder of its own, not written yet; ``OSError`` where nothing can be."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    launch = Launch(sweep / FOLDER / f"{now}-{uuid.uuid4().hex[:8]}", launcher, list(runs), told=told)
    launch.folder.mkdir(parents=True)
    return launch


def read_all(sweep: Path) -> list[Launch]:
    """The launches of a sweep, oldest first."""
    found = []
    for path in sorted((sweep / FOLDER).glob("*/launch.json")):
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError):  # it ended just now
            continue
        arrays = [Array(**array) for array in values.pop("arrays")]
        found.append(Launch(path.parent, arrays=arrays, **values))
    return found


@contextmanager
def local(sweep: Path, launcher: str, runs: Sequence[str]) -> Iterator[None]:
    """A launch of this process, told to others while it lasts; folders of dead ones go."""
    for old in read_all(sweep):
        if old.launcher != SLURM and not lease.seems_alive(old.folder):
            shutil.rmtree(old.folder, ignore_errors=True)
    launch = create(sweep, launcher, runs)
    try:
        with lease.hold(launch.folder):
            launch.write()
            yield
    finally:
        shutil.rmtree(launch.folder, ignore_errors=True)


def local_ones(sweep: Path) -> list[Launch]:
    """The local launches that go on."""
    return [it for it in read_all(sweep) if it.launcher != SLURM and lease.seems_alive(it.folder)]


def slurm_tasks(sweep: Path, ended: Collection[str] = ()) -> dict[str, squeue.Task]:
    """{run: its task in Slurm's queue}; ``NoAnswer`` if that cannot be known.

    ended: where all the runs of an array are among these, Slurm is not asked for it.
    """
    over = set(ended)
    arrays = {
        array.name: array
        for launch in read_all(sweep)
        for array in launch.arrays
        if not over.issuperset(run for task in array.tasks for run in task)
    }
    found = {}
    for task in squeue.tasks(arrays):
        for run in arrays[task.name].tasks[task.index]:
            found[run] = task
    return found
