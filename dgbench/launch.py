"""How a list of specs is executed: one after another, or by a pool of worker processes.

A worker is reused from run to run, so imports are paid once per worker. A worker that dies (kill -9, out of
memory) fails its own run only; a new one takes its place.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import build, files
from .machine import Machine
from .spec import RunSpec
from .train import Busy, run, summary


def check(runs: Sequence[RunSpec]) -> None:
    """``UsageError`` for the first spec that cannot run, before anything is written."""
    checked = set()
    for spec in runs:
        key = replace(spec, trial_seed=0, hparams_seed=0, test_envs=(), source_envs=())
        if (text := repr(key)) not in checked:
            build.check(spec)
            checked.add(text)


def machine_from(args: Any) -> Machine:
    """The fields of ``Machine`` that a command line has."""
    return Machine(**{f.name: getattr(args, f.name) for f in fields(Machine)})


def default_workers(device: str) -> int:
    """One per GPU where there are GPUs, else one per CPU core that this process may use."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serial(runs: Sequence[RunSpec], folder: Path, machine: Machine, workers: int = 1) -> None:
    """One run after another, in this process."""
    bar = _bar(len(runs))
    for spec in runs:
        _report(bar, spec, *_try(spec, folder, machine))
    bar.close()


def pool(runs: Sequence[RunSpec], folder: Path, machine: Machine, workers: int) -> None:
    """``workers`` processes, one GPU each where there are GPUs, the next run to whoever is free."""
    waiting = list(reversed(runs))
    busy: dict[Connection, _Worker] = {}
    bar = _bar(len(runs))
    try:
        for i in range(min(workers, len(runs))):
            worker = _Worker(i, folder, machine)
            worker.start(waiting.pop())
            busy[worker.pipe] = worker
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker = busy.pop(pipe)
                _report(bar, worker.spec, *worker.result())
                if waiting:
                    worker = worker if worker.process.is_alive() else _Worker(worker.number, folder, machine)
                    worker.start(waiting.pop())
                    busy[worker.pipe] = worker
                else:
                    worker.stop()
    finally:
        for worker in busy.values():
            worker.process.terminate()
        bar.close()


LAUNCHERS: dict[str, Callable[[Sequence[RunSpec], Path, Machine, int], None]] = {
    "serial": serial,
    "pool": pool,
}


class _Worker:
    """A process that runs one spec at a time; its pipe is readable when the run or the process ended."""

    def __init__(self, number: int, folder: Path, machine: Machine) -> None:
        context = multiprocessing.get_context("spawn")
        self.number, self.folder, self.spec = number, folder, RunSpec("", "")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, folder, _on_gpu(machine, number)), daemon=True
        )
        self.process.start()
        theirs.close()  # ours alone is open here, so the pipe ends when the process does

    def start(self, spec: RunSpec) -> None:
        self.spec = spec
        self.pipe.send(spec)

    def result(self) -> tuple[bool, str]:
        """(succeeded, last metrics or the error)."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            error = f"the worker process died (exit code {self.process.exitcode})"
            run_folder = self.folder / self.spec.run_id()
            run_folder.mkdir(parents=True, exist_ok=True)
            files.replace_text(run_folder / "error.txt", error)
            return False, error

    def stop(self) -> None:
        self.pipe.close()
        self.process.join()


def _work(pipe: Connection, folder: Path, machine: Machine) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    while True:
        try:
            spec = pipe.recv()
        except EOFError:
            return
        pipe.send(_try(spec, folder, machine))


def _try(spec: RunSpec, folder: Path, machine: Machine) -> tuple[bool, str]:
    run_folder = folder / spec.run_id()
    try:
        return True, summary(run(spec, run_folder, machine))
    except Busy as error:
        return False, str(error)
    except Exception as error:
        run_folder.mkdir(parents=True, exist_ok=True)
        files.replace_text(run_folder / "error.txt", traceback.format_exc())
        return False, f"{type(error).__name__}: {error}"


def _on_gpu(machine: Machine, number: int) -> Machine:
    import torch

    if machine.device in ("auto", "cuda") and torch.cuda.is_available():
        return replace(machine, device=f"cuda:{number % torch.cuda.device_count()}")
    return machine


def _bar(total: int) -> Any:
    return tqdm(total=total, unit="run", dynamic_ncols=True)


def _report(bar: Any, spec: RunSpec, succeeded: bool, text: str) -> None:
    if not succeeded:
        bar.write(f"failed {spec.run_id()}: {text}", file=sys.stderr)
    bar.set_postfix_str(f"{spec.run_id()} {text}"[:120], refresh=False)
    bar.update()
