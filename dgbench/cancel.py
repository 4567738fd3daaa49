"""``python -m dgbench.sweep cancel``: every process of a sweep ends, and is gone when the command returns."""

import time
from collections.abc import Sequence
from pathlib import Path

from . import launches, lease, squeue
from .spec import RunSpec


def cancel(folder: Path, runs: Sequence[RunSpec]) -> list[str]:
    """Stop launches first, so that no run begins anew, then the runs; returns what to tell."""
    told = _cancel_slurm(folder)
    for launch in launches.local_ones(folder):
        told += _stop(launch.folder, f"a launch by {launch.launcher}")
    for spec in runs:
        if lease.seems_alive(folder / spec.run_id()):
            told += _stop(folder / spec.run_id(), spec.run_id())
    return told or ["nothing was queued or running"]


def _stop(place: Path, name: str) -> list[str]:
    """End the process that writes a folder, and wait until it is gone."""
    holder = lease.read(place)
    if holder is None:
        return []
    if not holder.process.is_here():
        return [f"not stopped: {name}, by {holder}; give the command there"]
    holder.process.stop()
    while lease.seems_alive(place):  # the last of its threads or children have the lock
        time.sleep(0.02)
    return [f"stopped {name}, process {holder.process.pid}"]


def _cancel_slurm(folder: Path) -> list[str]:
    """scancel, and wait until the queue has forgotten the jobs: completing ones still have processes."""
    tasks = launches.slurm_tasks(folder)
    jobs = sorted({task.job for task in tasks.values()})
    if not jobs:
        return []
    squeue.call("scancel", *jobs)
    while launches.slurm_tasks(folder):
        time.sleep(0.5)
    return [f"cancelled job {job}" for job in jobs]
