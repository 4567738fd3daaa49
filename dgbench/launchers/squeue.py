"""Slurm's queue: what it says of jobs, as far as it can be asked."""

import os
import shutil
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass

from ..errors import UsageError

CLIENT_SECONDS = 60
"""Slurm's own commands give up after 9 to 100 s, by their configuration."""


class NoAnswer(UsageError):
    """Slurm cannot be asked, or refused."""


@dataclass(frozen=True)
class Task:
    """A task of an array as squeue lists it."""

    name: str  # of its job
    job: str  # of the array
    index: int
    state: str  # PENDING, RUNNING, COMPLETING ...
    reason: str

    @property
    def id(self) -> str:
        return f"{self.job}_{self.index}"

    def is_ending(self) -> bool:
        """Whether it has ended or was cancelled, with processes that may still live."""
        return self.state == "COMPLETING"


def own_job() -> str:
    """The job that this process is in; empty outside of Slurm."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID", "")


def own_restart() -> int:
    """How often Slurm has requeued this process's job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def find(tool: str) -> None:
    """``NoAnswer`` if Slurm's command is not here."""
    if not shutil.which(tool):
        raise NoAnswer(f"{tool} is not on PATH: this machine has no Slurm; give --launcher pool")


def call(*command: str) -> str:
    """What one of Slurm's commands prints; ``NoAnswer`` in one line if it fails."""
    find(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} did not answer in {CLIENT_SECONDS} s; try again later") from None
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise NoAnswer(f"Slurm does not answer: {told}; try again later")
    return done.stdout


def tasks(names: Collection[str]) -> list[Task]:
    """The tasks of the jobs of these names that have not ended."""
    if not names:
        return []
    found = []
    for line in call("squeue", "-h", "-r", "-o", "%j|%F|%K|%T|%r", f"--name={','.join(names)}").splitlines():
        name, job, index, state, reason = line.split("|", 4)
        found.append(Task(name, job, int(index) if index.isdigit() else 0, state, reason))
    return found


def cancel(names: Collection[str]) -> list[str]:
    """scancel the jobs of these names; returns their ids when the queue has forgotten them.

    Not before: those that are completing still have processes.
    """
    cancelled: set[str] = set()
    while left := {task.job for task in tasks(names)}:
        if left - cancelled:
            try:
                call("scancel", *sorted(left - cancelled))
            except NoAnswer as error:
                if "Invalid job id" not in str(error) and "already compl" not in str(error):
                    raise
            cancelled |= left
        time.sleep(0.5)
    return sorted(cancelled)


def is_listed(job: str) -> bool:
    """Whether a job has not ended."""
    try:
        return bool(call("squeue", "-h", "-o", "%T", "-j", job).strip())
    except NoAnswer as error:
        if "Invalid job id" in str(error):  # forgotten, so long ago did it end
            return False
        raise
