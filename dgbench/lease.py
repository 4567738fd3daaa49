"""Who writes a folder: ``lease.json`` in it, one process at a time.

The holder touches the file every ``BEAT_SECONDS``. Another process takes the folder over when the holder is
dead, which on one machine is known at once. Of a holder on another machine it is believed when the file has
not changed for ``STALE_SECONDS`` and the job has left Slurm's queue. The seconds are those of the observer's
own monotonic clock: no clock is compared with another, so none that jumps can break a lease. A holder that
lived on, asleep or cut off, asks ``Lease.check`` before it writes and finds that the folder is another's.
"""

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import files, process
from .errors import UsageError
from .launchers import squeue
from .process import Process

NAME, LOCK = "lease.json", "lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""At least; with a longer KillWait of Slurm, that."""


class Busy(UsageError):
    """Another process is writing this folder."""


@dataclass(frozen=True)
class Holder:
    """What a lease says. job: "" outside of Slurm; restart: how often Slurm has requeued the job."""

    process: Process
    job: str = ""
    restart: int = 0

    def __str__(self) -> str:
        job = f"job {self.job} on " if self.job else ""
        return f"{job}{self.process.host}, process {self.process.pid}"


def read(folder: Path) -> Holder | None:
    """The holder, dead or alive; None without a lease, or with one that says nothing (a full disk)."""
    try:
        told = json.loads((folder / NAME).read_bytes())
        return Holder(Process(**told.pop("process")), **told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def seems_alive(folder: Path) -> bool:
    """Whether a process writes the folder, to show it; for another machine's, clocks are trusted."""
    if files.is_locked(folder / LOCK):
        return True
    holder = read(folder)
    if holder and holder.process.is_here():
        return holder.process.is_alive()
    try:
        return abs(time.time() - (folder / NAME).stat().st_mtime) < STALE_SECONDS
    except OSError:
        return False


def is_alive(folder: Path) -> bool:
    """Whether a process writes the folder, to act on it: another machine's lease is watched until it beats.

    One that stays still for ``STALE_SECONDS`` of this process's own clock is removed.
    """
    watch = Watch()
    watch.wait(folder)
    return watch.is_held(folder)


class Lease:
    """Ours until ``release``. Its heart is a thread, which dies with the process."""

    def __init__(self, folder: Path) -> None:
        """``FileExistsError`` if there is a lease."""
        self.path = folder / NAME
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        told = json.dumps(asdict(Holder(process.me(), squeue.own_job(), squeue.own_restart()))).encode()
        try:
            files.write(self.file, told, self.path)
        except OSError:
            self.path.unlink()
            os.close(self.file)
            raise
        self.stopped = threading.Event()
        self.heart = threading.Thread(target=self._beat, daemon=True)
        self.heart.start()

    def _beat(self) -> None:
        while not self.stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.file)  # by descriptor: a lease that another put in its place stays untouched

    def is_ours(self) -> bool:
        """Whether the file is still the one we made, whose inode stays taken while we have it open."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except OSError:
            return False

    def check(self) -> None:
        """``Busy`` if another process has taken the folder over; asked before anything is written."""
        if not self.is_ours():
            raise Busy(f"{self.path.parent} was taken over by {read(self.path.parent) or 'another process'}")

    def release(self) -> None:
        self.stopped.set()
        self.heart.join()
        if self.is_ours():
            self.path.unlink(missing_ok=True)
        os.close(self.file)


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Write the folder; ``Busy`` if another process does, or did on another machine (see ``Watch``)."""
    with files.lock(folder / LOCK) as free:
        holder = read(folder)
        if free and holder and holder.process.is_here() and not holder.process.is_alive():
            (folder / NAME).unlink(missing_ok=True)
        try:
            if not free:
                raise FileExistsError
            lease = Lease(folder)
        except FileExistsError:
            who = read(folder) or "another process"
            raise Busy(f"{folder} is being written by {who}; wait or give another folder") from None
        try:
            yield lease
        finally:
            lease.release()


@dataclass
class Watch:
    """Looks at leases again and again, and removes those whose holder is gone."""

    stale_seconds: float = field(default_factory=lambda: STALE_SECONDS)
    clock: Callable[[], float] = time.monotonic
    seen: dict[Path, tuple[tuple[int, int], float]] = field(default_factory=dict)  # {lease: (beat, since)}
    changes: Counter[Path] = field(default_factory=Counter)  # of what was seen, the first sight included

    def is_held(self, folder: Path) -> bool:
        """Whether another process writes the folder, as far as was seen until now."""
        path = folder / NAME
        if files.is_locked(folder / LOCK):
            return True
        try:
            beat = _beat_of(path)
        except OSError:
            return False
        holder = read(folder)
        if holder and holder.process.is_here():
            return holder.process.is_alive()
        last, since = self.seen.get(path, (None, 0.0))
        if beat != last:
            self.seen[path] = beat, self.clock()
            self.changes[path] += 1
            return True
        if self.clock() - since < self.stale_seconds or (holder and _is_queued(holder)):
            return True
        with files.lock(folder / LOCK) as free, contextlib.suppress(OSError):
            if free and _beat_of(path) == beat:
                path.unlink()
        return False

    def wait(self, folder: Path) -> None:
        """Until the folder is free or its holder has shown a sign of life; ``hold`` then says which."""
        while self.is_held(folder) and self.changes[folder / NAME] == 1:
            time.sleep(1)


def _beat_of(path: Path) -> tuple[int, int]:
    """What changes with each beat and with each holder."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _is_queued(holder: Holder) -> bool:
    """Whether the holder's job may still run; it may where Slurm cannot be asked. Ours is this process."""
    if not holder.job or holder.job == squeue.own_job():
        return False
    try:
        return squeue.is_listed(holder.job)
    except UsageError:
        return True
