"""A pool of worker processes on this machine.

A worker is reused from run to run, so imports are paid once per worker, and ends with the pool however that
ends. The run of a worker that dies (kill -9, out of memory) is tried again, ``DEATHS`` times at most.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tqdm import tqdm

from .. import records
from ..launch import LOOK_SECONDS, Bar, Todo, attempt_together
from ..machine import Machine, gpus
from ..spec import RunSpec

DEATHS = 3


def pool(runs: Sequence[RunSpec], folder: Path, machine: Machine, workers: int) -> None:
    """``workers`` processes, one GPU each where there are GPUs, the next run to whoever is free."""
    todo, deaths = Todo(runs, folder), Counter[str]()
    machines = _machines(machine, workers)[: len(runs)]
    idle = [_Worker(folder, own) for own in machines]
    busy: dict[Connection, _Worker] = {}
    try:
        with Bar(todo, len(runs)) as bar:
            while todo.runs or busy:
                while idle and (specs := todo.take_alike(machine.vectorize)):
                    worker = idle.pop().start(specs)
                    busy[worker.pipe] = worker
                if not busy:
                    time.sleep(LOOK_SECONDS if todo.runs else 0)
                for pipe in wait(list(busy), LOOK_SECONDS if todo.runs and idle else None) if busy else ():
                    assert isinstance(pipe, Connection)
                    idle.append(worker := busy.pop(pipe))
                    for spec, (state, text) in zip(worker.specs, worker.results(), strict=True):
                        deaths[spec.run_id()] += state == "died"
                        if state == "died" and deaths[spec.run_id()] >= DEATHS:
                            records.write_error(folder / spec.run_id(), text)
                            state = "failed"
                        if state in ("died", "busy"):
                            todo.put_back(spec)
                        bar.report(spec, state, text, sum(len(other.specs) for other in busy.values()))
    finally:
        for worker in [*idle, *busy.values()]:
            worker.stop()


class _Worker:
    """A process that trains one run at a time, or several as one; its pipe is readable when either ended.

    It ignores Ctrl-C, which reaches the parent too, and that ends its workers.
    """

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder, self.machine, self.specs = folder, machine, list[RunSpec]()
        self.process: multiprocessing.process.BaseProcess | None = None

    def start(self, specs: list[RunSpec]) -> "_Worker":
        """Give it runs; a process is made for the first ones, and where the last one died."""
        self.specs = specs
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(
                target=_work, args=(theirs, self.folder, self.machine), daemon=True
            )
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's too, from its first moment
            self.process.start()
            signal.signal(signal.SIGINT, before)
            theirs.close()  # ours alone is open here, so the pipe ends when the process does
        with contextlib.suppress(OSError):  # it died just now: the pipe says so again
            self.pipe.send(specs)
        return self

    def results(self) -> list[tuple[str, str]]:
        """What ``attempt`` returned of each run, or ("died", how)."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            assert self.process is not None
            self.process.join()
            return [("died", f"the worker process died (exit code {self.process.exitcode})")] * len(
                self.specs
            )

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.process is not None:
            self.process.kill()  # a run goes on from its checkpoint, whatever ended it
            self.process.join()


def _work(pipe: Connection, folder: Path, machine: Machine) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # not one between processes, which stays when this one is killed
    while True:
        try:
            specs = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt_together(specs, folder, machine))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _machines(machine: Machine, workers: int) -> list[Machine]:
    """One per worker process: with GPUs, ``runs_per_gpu`` for each of ``workers``, the GPUs in turn."""
    if not (found := gpus(machine.device)):
        return [machine] * workers
    return [replace(machine, device=f"cuda:{i % found}") for i in range(workers * machine.runs_per_gpu)]
