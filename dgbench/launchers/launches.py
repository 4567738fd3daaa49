"""What was launched and may still be going on: ``SWEEP/.submit/<time>-<8 hex digits>/launch.json``.

A launch holds its folder's lease for as long as its process lives. One on Slurm is known by the names of
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

from .. import files, lease
from . import squeue

FOLDER = ".submit"


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
    """One call of ``sweep launch``. runs: what its process will have done or submitted; arrays: on Slurm."""

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

    def forget_unsubmitted(self, seconds: float = 0.0) -> None:
        """Cancel what Slurm took of arrays although their submission failed, and forget them.

        Such a job lacks its input. It may appear within ``seconds``; ``NoAnswer`` if that cannot be known,
        and then it is looked for at the next launch.
        """
        names = [array.name for array in self.arrays if not array.job]
        until = time.monotonic() + seconds
        while names and not squeue.cancel(names) and time.monotonic() < until:
            time.sleep(1)
        self.arrays = [array for array in self.arrays if array.job]
        if self.arrays:
            self.write()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


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
        if not old.arrays and not lease.is_alive(old.folder):
            shutil.rmtree(old.folder, ignore_errors=True)
    launch = create(sweep, launcher, runs)
    try:
        with lease.hold(launch.folder):
            launch.write()
            yield
    finally:
        shutil.rmtree(launch.folder, ignore_errors=True)


def living(sweep: Path) -> list[Launch]:
    """The launches whose process goes on."""
    return [it for it in read_all(sweep) if lease.is_alive(it.folder)]


def forget_unsubmitted(sweep: Path) -> None:
    """Cancel what Slurm took of launches that died while they submitted."""
    for launch in read_all(sweep):
        if any(not array.job for array in launch.arrays) and not lease.is_alive(launch.folder):
            launch.forget_unsubmitted()


def slurm_arrays(sweep: Path, ended: Collection[str] = ()) -> dict[str, Array]:
    """{name of its job: array} of those that may be in Slurm's queue. ended: runs that are over."""
    over = set(ended)
    return {
        array.name: array
        for launch in read_all(sweep)
        for array in launch.arrays
        if not over.issuperset(run for task in array.tasks for run in task)
    }


def slurm_tasks(sweep: Path, ended: Collection[str] = ()) -> dict[str, squeue.Task]:
    """{run: its task in Slurm's queue}, the living one of several; ``NoAnswer`` if that cannot be known.

    ended: where all the runs of an array are among these, Slurm is not asked for it.
    """
    arrays = slurm_arrays(sweep, ended)
    found = {}
    for task in sorted(squeue.tasks(arrays), key=lambda task: not task.is_ending()):
        for run in arrays[task.name].tasks[task.index]:
            found[run] = task
    return found
