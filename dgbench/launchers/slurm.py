"""Sweeps on Slurm: arrays of tasks, submitted through submitit, each with a few runs one after another.

What a run has reached is read from its own files and what is queued from squeue; neither submitit's results
nor Slurm's accounting are asked. A task that is preempted or out of time is queued again and goes on from
its runs' checkpoints; one that is killed is left to the next launch.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from tqdm import tqdm

from .. import files, lease, records
from ..cost import seconds_per_run
from ..errors import UsageError
from ..launch import serial
from ..machine import Machine, code_version
from ..spec import RunSpec
from . import launches, squeue
from .launches import Array, Launch
from .slurm_preflight import Cluster, Resources

TASK_SECONDS = 450.0
"""What a task should last: starting one costs seconds, and a lost one at most this."""
REQUEUES = 1000
"""After timeouts; preemptions of jobs of up to 10 minutes count as such."""
LOOK_SECONDS = 15.0
DEAF = """sh -c 'trap "" USR2; exec "$@"' sh"""
"""Before a command: Slurm's signal does not end it while it imports, before submitit's handler is there."""
Task = list[RunSpec]


@dataclass(frozen=True)
class Work:
    """What submitit calls in a job; pickled, so code that is edited meanwhile is picked up."""

    folder: Path
    machine: Machine
    stale_seconds: float

    def __call__(self, task: Task) -> dict[str, str]:
        os.register_at_fork(after_in_child=_ignore_signals)
        serial(task, self.folder, self.machine, watch=lease.Watch(self.stale_seconds))
        return {spec.run_id(): records.state(self.folder / spec.run_id()) for spec in task}

    def checkpoint(self, task: Task) -> submitit.helpers.DelayedSubmission:
        """The same again, which passes over the runs that have ended."""
        return submitit.helpers.DelayedSubmission(self, task)


def _ignore_signals() -> None:
    """Slurm signals every process of a job; one is enough to queue it again."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def split(runs: Sequence[RunSpec], runs_per_task: int) -> list[Task]:
    """Runs into tasks of so many, or 0: of about ``TASK_SECONDS``."""
    if runs_per_task:
        return [list(runs[i : i + runs_per_task]) for i in range(0, len(runs), runs_per_task)]
    tasks: list[Task] = []
    room = 0.0
    for spec in runs:
        seconds = seconds_per_run(spec)[1]
        if not tasks or seconds > room:
            tasks.append([])
            room = TASK_SECONDS
        tasks[-1].append(spec)
        room -= seconds
    return tasks


@dataclass(frozen=True)
class Submitter:
    """Submits the runs of one sweep to one cluster."""

    folder: Path  # absolute
    machine: Machine
    wanted: Resources
    cluster: Cluster

    def create(self) -> Launch:
        """A launch that has submitted nothing; ``OSError`` where none can be written."""
        return launches.create(self.folder, "slurm", **asdict(self.wanted), version=code_version())

    def launch(self, launch: Launch, runs: Sequence[RunSpec], also: Collection[str], wait: bool) -> None:
        """Submit ``runs``; wait until they and those of ``also``, in the queue already, have ended."""
        followed = [spec.run_id() for spec in runs] + list(also)
        try:
            left = split(runs, self.wanted.runs_per_task)
            with lease.hold(launch.folder), _Follow(self.folder, followed) as follow:
                left = self.submit(launch, left)
                while (wait or left) and follow.look(len(left)):
                    left = self.submit(launch, left)
                launch.runs = []
                launch.write()
        finally:
            if not launch.arrays:
                shutil.rmtree(launch.folder, ignore_errors=True)
                _link(launch.folder).unlink(missing_ok=True)

    def submit(self, launch: Launch, left: list[Task]) -> list[Task]:
        """Submit as many tasks as may be queued; returns the others."""
        room = self._room(len(left))
        while left and room > 0:
            size = min(len(left), room, self.cluster.max_array)
            now, left, room = left[:size], left[size:], room - size
            launch.runs = [spec.run_id() for task in left for spec in task]
            self._submit_array(launch, now)
        return left

    def _room(self, tasks: int) -> int:
        """How many tasks to submit now: with --max_submit, none before half of those queued have ended."""
        if not tasks or not (most := self.wanted.max_submit):
            return tasks
        try:
            queued = len({task.id for task in launches.slurm_tasks(self.folder).values()})
        except squeue.NoAnswer:  # it may answer again soon
            return 0
        return most - queued if queued <= most / 2 else 0

    def _submit_array(self, launch: Launch, tasks: list[Task]) -> None:
        """Its name is written before, so that it is found again whatever happens."""
        name = f"{_job_name(self.folder)}-{launch.id}-{len(launch.arrays)}"
        array = Array(name, [[spec.run_id() for spec in task] for task in tasks])
        launch.arrays.append(array)
        launch.write()
        machine = _for_tasks(self.machine, self.wanted.usable_min)
        work = Work(self.folder, machine, max(lease.STALE_SECONDS, self.cluster.kill_wait))
        try:
            with _outside_of_jobs():
                jobs = self.executor(launch.folder, name).map_array(work, tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            told = " ".join(str(error).replace("subprocess.CalledProcessError", "").split())
            launch.forget_unsubmitted(2 * self.cluster.message_timeout if "timed out" in told else 0.0)
            raise UsageError(f"Slurm did not take the runs: {told}") from None
        array.job = jobs[0].job_id.split("_")[0]
        launch.write()

    def executor(self, folder: Path, name: str, link: bool = True) -> submitit.SlurmExecutor:
        """link: whether one may be made."""
        python = f"{DEAF} {shlex.quote(sys.executable)}"
        it = submitit.SlurmExecutor(_plain(folder, link), max_num_timeout=REQUEUES, python=python)
        wanted = self.wanted
        values = {
            "partition": wanted.partition,
            "account": wanted.account,
            "qos": wanted.qos,
            "gpus_per_node": wanted.gpus,
            "cpus_per_task": wanted.cpus,
            "mem": wanted.mem,
            "constraint": wanted.constraint,
            "comment": wanted.comment,
        }
        it.update_parameters(
            job_name=name,
            time=wanted.timeout_min,
            signal_delay_s=wanted.signal_delay_s,
            array_parallelism=wanted.array_parallelism,
            additional_parameters={"requeue": True, **wanted.sbatch},
            **{key: value for key, value in values.items() if value},
        )
        return it

    def dry_run_text(self, runs: Sequence[RunSpec]) -> str:
        """How many tasks there would be, and the script that sbatch would get for the first array."""
        tasks = split(runs, self.wanted.runs_per_task)
        most = min(self.cluster.max_array, self.wanted.max_submit or len(tasks))
        it = self.executor(
            self.folder / launches.FOLDER / "NEW", f"{_job_name(self.folder)}-NEW-0", link=False
        )
        if tasks[1:]:
            it.parameters["map_count"] = min(len(tasks), most)
        script = it._make_submission_file_text(it._submitit_command_str, "")
        arrays = -(-len(tasks) // most) if tasks else 0
        told = f"{len(runs)} runs in {len(tasks)} tasks of {arrays} arrays"
        return f"{told}; accounting {'works' if self.cluster.accounting else 'is off'}\n\n{script}"


def _job_name(sweep: Path) -> str:
    return "dgb-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", sweep.name)[:40]


def _for_tasks(machine: Machine, usable_min: float) -> Machine:
    """The same for a process that starts elsewhere, with checkpoints often enough to get on in a task."""
    data_dir, label_split = (path and path.absolute() for path in (machine.data_dir, machine.label_split))
    often = min(machine.checkpoint_every_min or usable_min, usable_min / 4)
    plugin = [path.absolute() for path in machine.plugin]
    return replace(
        machine, data_dir=data_dir, label_split=label_split, plugin=plugin, checkpoint_every_min=often
    )


def _plain(folder: Path, link: bool) -> Path:
    """The folder by a path that #SBATCH lines can hold, where Slurm replaces %."""
    if re.fullmatch(r"[A-Za-z0-9_./+=:@,-]+", str(folder)):
        return folder
    path = _link(folder)
    if link and not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder)
    return path


def _link(folder: Path) -> Path:
    return files.cache_folder("submit") / folder.name


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """A job that is submitted from within a job inherits nothing of it."""
    conf = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env() if squeue.own_job() else contextlib.nullcontext():
        if conf:
            os.environ["SLURM_CONF"] = conf
        yield


class _Follow:
    """A progress bar over runs until they have ended or are lost."""

    def __init__(self, folder: Path, runs: Sequence[str]) -> None:
        self.folder, self.left, self.lost, self.pause = folder, list(runs), set[str](), 0.5
        self.bar = tqdm(total=len(runs), unit="run", dynamic_ncols=True)

    def __enter__(self) -> "_Follow":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def look(self, unsubmitted: int) -> bool:
        """Wait a little; whether there is anything to wait for still.

        A run that is not in the queue is lost when it is not there at the next look either.
        """
        time.sleep(self.pause)
        self.pause = min(LOOK_SECONDS, self.pause * 1.2)
        try:
            queued = {run: task.state for run, task in launches.slurm_tasks(self.folder).items()}
        except squeue.NoAnswer as error:
            self.bar.set_postfix_str(str(error)[:100])
            return True
        gone = [run for run in self.left if records.has_ended(self.folder / run)]
        for run in gone:
            if error_line := records.last_line(self.folder / run / "error.txt"):
                self.bar.write(f"failed {run}: {error_line}")
        self.bar.update(len(gone))
        self.left = [run for run in self.left if run not in set(gone)]
        running = sum(state == "RUNNING" for state in queued.values())
        self.bar.set_postfix_str(f"{running} running, {len(queued) - running} queued")
        lost = {r for r in self.left if r not in queued and not lease.seems_alive(self.folder / r)}
        over = not unsubmitted and set(self.left) == lost == self.lost
        self.lost = lost
        return bool(self.left) and not over
