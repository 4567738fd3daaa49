"""Where and with what a run happens; nothing here changes a run's name."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .errors import UsageError


@dataclass(frozen=True)
class Machine:
    """Where and with what a run happens."""

    data_dir: Path | None = None
    device: str = "auto"
    threads: int = 0  # of the CPU; 0: all. Sums differ in the last digits between numbers of threads
    cache: str = "disk"
    data_workers: int = 0  # processes that prepare coming batches; 0, or in a pool of runs: in line
    plugin: Sequence[Path] = ()
    skip_model_save: bool = False
    log: str = "none"  # one of live.KINDS
    checkpoint_every_min: float = 10.0  # between evaluations; 0: at evaluations only
    vectorize: int = 1  # in a sweep: so many alike runs train as one program, where that is possible
    runs_per_gpu: int = 1  # in a pool
    label_split: Path | None = None  # the file whose content the spec names, or a folder of such files

    def __post_init__(self) -> None:
        least_of = {"vectorize": 1, "runs_per_gpu": 1, "threads": 0, "checkpoint_every_min": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)} must be at least {least}")


def machine_from(args: Any) -> Machine:
    """The fields of ``Machine`` that a command line has."""
    return Machine(**{f.name: getattr(args, f.name) for f in fields(Machine)})


def prepare(machine: Machine) -> torch.device:
    """The device, with threads and determinism set; ``UsageError`` if it does not work."""
    name = machine.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        have = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--device {name} does not work ({reason}); choose from: {', '.join(have)}"
        ) from None
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if machine.data_workers < 0 or (machine.data_workers and not hasattr(os, "fork")):
        raise UsageError(f"--data_workers {machine.data_workers} does not work here; give 0")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device


def gpus(device: str) -> int:
    """How many GPUs runs with ``--device`` share; 0 where they are on the CPU or name one."""
    return torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0


def place(module: torch.nn.Module, device: torch.device) -> None:
    """Move a module to the device, its weights into the layout that convolutions are fastest in.

    From then on freed memory is used again instead of being returned to the system, which would clear it each
    time: batches and activations of many MiB come and go with every step, and half of the time that a view
    takes on a CPU would be page faults. Before, it would keep the weights in their other layout.
    """
    module.to(device).to(memory_format=torch.channels_last)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Large blocks too come from the heap, and it does not shrink; where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def forget_peak_memory(device: torch.device) -> None:
    """``peak_memory_gb`` starts anew: a process may have had other runs, whose freed memory it keeps."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # of Linux alone
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb(device: torch.device) -> float:
    """Most memory in GiB since ``forget_peak_memory``: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


@cache
def code_version() -> str:
    """The package's version, and the commit in a checkout ("+dirty" with changes)."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return __version__
    git = ["git", "--no-optional-locks", "-C", str(root)]

    def told(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        commit = told("describe", "--always", "--exclude=*")
        if commit and told("status", "--porcelain", "--untracked-files=no"):
            commit += "+dirty"  # --dirty would lock the index, and a run that is killed leave it locked
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{commit}" if commit else __version__
