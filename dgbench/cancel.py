"""``python -m dgbench.sweep cancel``: every process of a sweep ends, and is gone when the command returns."""

import time
from collections.abc import Sequence
from pathlib import Path

from . import lease, status
from .launchers import launches, squeue
from .spec import RunSpec


def cancel(folder: Path, runs: Sequence[RunSpec]) -> list[str]:
    """Stop launches first, so that no run begins anew, then the runs; returns what to tell."""
    told = []
    for launch in launches.living(folder):
        told += _stop(launch.folder, f"a launch by {launch.launcher}")
    names = launches.slurm_arrays(folder, status.ended(folder, runs))
    told += [f"cancelled job {job}" for job in squeue.cancel(names)]
    for spec in runs:
        if lease.seems_alive(folder / spec.run_id()):
            told += _stop(folder / spec.run_id(), spec.run_id())
    return told or ["nothing was queued or running"]


def _stop(place: Path, name: str) -> list[str]:
    """End the process that writes a folder, and wait until it is gone."""
    holder = lease.read(place)
    if holder is None or (holder.job and not squeue.is_listed(holder.job)):
        return []  # a job that was just cancelled may leave the lease of its node
    if not holder.process.is_here():
        return [f"not stopped: {name}, by {holder}; give the command there"]
    holder.process.stop()
    while lease.seems_alive(place):  # the last of its threads or children have the lock
        time.sleep(0.02)
    return [f"stopped {name}, process {holder.process.pid}"]
