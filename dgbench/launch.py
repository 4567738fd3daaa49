"""How a list of specs is executed here: one after another, or by a pool of processes (``launchers/pool.py``).

Two launches on one folder share the work: a run is taken by who is first to hold its lease, and one that
another process is writing is looked at again until it is done, or until its writer is gone.
"""

import contextlib
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from . import build, lease, records, registry, vectorized
from .course import summary
from .errors import UsageError
from .machine import Machine, gpus
from .process import cores
from .spec import RunSpec
from .train import run

LOOK_SECONDS = 1.0
"""Between two looks at the runs that others are writing."""


def check(runs: Sequence[RunSpec]) -> None:
    """``UsageError`` for the first spec that cannot run, before anything is written."""
    checked = set()
    for spec in runs:
        key = replace(spec, trial_seed=0, hparams_seed=0, test_envs=(), source_envs=())
        if (text := repr(key)) not in checked:
            build.check(spec)
            checked.add(text)


def check_data(runs: Sequence[RunSpec], data_dir: Path | None) -> None:
    """``UsageError`` where the images of a data set are not there: once, not in every run."""
    for name in dict.fromkeys(spec.dataset for spec in runs):
        try:
            registry.find("datasets", name)(data_dir).load(())
        except UsageError as error:
            raise UsageError(f"{error}; with make: DATA=FOLDER") from None


def default_workers(device: str, threads: int = 1) -> int:
    """One per GPU where there are GPUs, else for each ``threads`` CPU cores that this process may use."""
    return gpus(device) or max(1, cores() // max(1, threads))


class Todo:
    """The runs that are left."""

    def __init__(self, runs: Sequence[RunSpec], folder: Path, watch: lease.Watch | None = None) -> None:
        self.runs, self.folder, self.watch = deque(runs), folder, watch or lease.Watch()
        self.kinds: dict[str, str] = {}  # runs of one kind may train together
        self.alone: set[str] = set()  # these do not

    def take(self) -> RunSpec | None:
        """The next run that is free; None if there is none now. Those that ended elsewhere are left out."""
        for _ in range(len(self.runs)):
            spec = self.runs.popleft()
            run_folder = self.folder / spec.run_id()
            held = self.watch.is_held(run_folder)  # asked first: a run may end in between
            if records.has_ended(run_folder):
                continue
            if not held:
                return spec
            self.runs.append(spec)
        return None

    def take_alike(self, most: int) -> list[RunSpec]:
        """The next free run and others, ``most`` together, that may train with it as one program."""
        first = self.take()
        if first is None:
            return []
        alike = [first]
        for spec in list(self.runs) if most > 1 and first.run_id() not in self.alone else []:
            if len(alike) == most:
                break
            if self._kind(spec) == self._kind(first) and self._may_join(spec):
                self.runs.remove(spec)
                alike.append(spec)
        return alike

    def _may_join(self, spec: RunSpec) -> bool:
        run_folder = self.folder / spec.run_id()
        free = spec.run_id() not in self.alone and not self.watch.is_held(run_folder)
        return free and not records.has_ended(run_folder)

    def _kind(self, spec: RunSpec) -> str:
        if spec.run_id() not in self.kinds:
            self.kinds[spec.run_id()] = vectorized.kind(spec)
        return self.kinds[spec.run_id()]

    def put_back(self, spec: RunSpec) -> None:
        """A run whose process died, maybe of those beside it, or that another process writes."""
        self.alone.add(spec.run_id())
        self.runs.append(spec)

    def together(self, most: int) -> Iterator[list[RunSpec]]:
        """The runs as they become free, until none is left."""
        while self.runs:
            if specs := self.take_alike(most):
                yield specs
            elif self.runs:
                time.sleep(LOOK_SECONDS)


def serial(
    runs: Sequence[RunSpec],
    folder: Path,
    machine: Machine,
    workers: int = 1,
    watch: lease.Watch | None = None,
) -> None:
    """One run after another, in this process."""
    todo = Todo(runs, folder, watch)
    with Bar(todo, len(runs)) as bar:
        for specs in todo.together(machine.vectorize):
            for spec, (state, text) in zip(specs, attempt_together(specs, folder, machine), strict=True):
                if state == "busy":
                    todo.put_back(spec)
                bar.report(spec, state, text)


def attempt_together(specs: Sequence[RunSpec], folder: Path, machine: Machine) -> list[tuple[str, str]]:
    """What ``attempt`` returns of each; several train as one program, and alone if that fails."""
    if len(specs) > 1:
        with contextlib.suppress(Exception):  # which meets its own run below
            vectorized.run_group(specs, folder, machine)
    return [attempt(spec, folder, machine) for spec in specs]


def attempt(spec: RunSpec, folder: Path, machine: Machine) -> tuple[str, str]:
    """Run a spec: ("done", its last metrics), ("failed", the error) or ("busy", who writes it)."""
    run_folder = folder / spec.run_id()
    try:
        return "done", summary(run(spec, run_folder, machine))
    except lease.Busy as error:
        return "busy", str(error)
    except Exception as error:
        records.write_error(run_folder, traceback.format_exc())
        return "failed", f"{type(error).__name__}: {error}"


class Bar:
    """A progress bar over runs, those that end elsewhere included."""

    def __init__(self, todo: Todo, total: int) -> None:
        self.todo, self.total, self.bar = todo, total, tqdm(total=total, unit="run", dynamic_ncols=True)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def report(self, spec: RunSpec, state: str, text: str, under_way: int = 0) -> None:
        """under_way: runs that are being worked on."""
        if state == "failed":
            self.bar.write(f"failed {spec.run_id()}: {text}", file=sys.stderr)
        self.bar.set_postfix_str(f"{spec.run_id()} {text}"[:120], refresh=False)
        self.bar.update(self.total - len(self.todo.runs) - under_way - self.bar.n)
