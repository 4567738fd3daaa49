"""Which process something is, told so that another one can find out whether it still lives."""

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KILL_SECONDS = 3.0
"""What a process has between SIGTERM and SIGKILL."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Process:
    """A process of one boot of one machine (or container). ``started``: its start in ticks since that boot,
    which tells it from a later process with the same number; 0 where the system does not say."""

    host: str
    machine: str
    pid: int
    started: int

    def is_here(self) -> bool:
        """Whether it is of this machine, so that ``is_alive`` knows."""
        return self.machine == _machine()

    def is_alive(self) -> bool:
        """Whether it runs; only asked of a process of this machine. One that awaits its parent is dead."""
        if not Path("/proc/self/stat").exists():
            return _takes_signals(self.pid)
        return _start(self.pid) == self.started

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it is gone."""
        for number, seconds in ((signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, float("inf"))):
            if self.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            until = time.monotonic() + seconds
            while self.is_alive() and time.monotonic() < until:
                time.sleep(0.02)


def me() -> Process:
    """This process."""
    return Process(socket.gethostname(), _machine(), os.getpid(), _start(os.getpid()))


@cache
def _machine() -> str:
    """Host, boot and the space of process numbers: containers of one host name are different machines."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start(pid: int) -> int:
    """Ticks between boot and the start of a process; 0 if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
