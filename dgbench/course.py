"""A run under way: its folder is held, its records and checkpoints are written.

The folder holds spec.json, results.jsonl (one record per evaluation and kind of weights), log.txt,
checkpoint.pt and the one before, error.txt after a failure, and done, written last; lease.json while a
process writes it.
"""

import json
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import averaging, files, lease, live, records, registry, retrieval
from .build import Built, build, refusals
from .checkpoint import State
from .errors import UsageError
from .evaluate import PSEUDO_LABELLED, accuracy, pseudo_labels
from .lease import Lease
from .machine import Machine, forget_peak_memory, peak_memory_gb
from .meter import Meter
from .spec import RunSpec
from .tasks import Pool


@dataclass
class Course:
    """A run under way in its folder. first: the update that it began or goes on with."""

    run: Built
    folder: Path
    machine: Machine
    held: Lease
    state: State
    shown: live.Log
    first: int
    saved: float = field(default_factory=time.monotonic)

    def evaluate(self, step: int) -> str:
        """Record every kind of weights after update ``step``; returns the last summary."""
        run, state = self.run, self.state
        losses, timing = state.meter.read()
        text = ""
        for weights in ("raw", *state.averagers):
            if weights != "raw" and not state.averagers[weights].ready(step + 1 == run.spec.steps):
                continue
            with state.averagers[weights].swapped(run.algorithm) if weights != "raw" else nullcontext():
                started = time.perf_counter()
                metrics = evaluate(run)
                seconds = {**timing["seconds"], "evaluate": time.perf_counter() - started}
            if weights == "raw":
                for averager in state.averagers.values():
                    averager.evaluated(run.algorithm, step, validation_loss(run, metrics))
            record = {
                **run.head,
                "step": step,
                "epoch": step / run.steps_per_epoch,
                "weights": weights,
                "losses": losses,
                "metrics": metrics,
                "seconds": seconds,
                "images_per_second": timing["images_per_second"],
                "memory_gb": peak_memory_gb(run.device),
            }
            if weights != "raw":
                record["averaging"] = state.averagers[weights].info()
            self.held.check()
            records.append(self.folder / "results.jsonl", record, sync=True)  # a checkpoint relies on it
            self.shown.write(record)
            text = summary(record)
            _log(self.folder, text)
        return text

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is as old as the machine allows."""
        limit = self.machine.checkpoint_every_min * 60
        return limit > 0 and time.monotonic() - self.saved > limit

    def save(self, step: int) -> None:
        """Write the checkpoint after update ``step``."""
        self.held.check()
        self.state.save(self.folder, step + 1)
        self.saved = time.monotonic()

    def end(self) -> None:
        """Write the weights and ``done``."""
        self.state.finish(self.folder, not self.machine.skip_model_save)
        _log(self.folder, "done")


@contextmanager
def opened(spec: RunSpec, folder: Path, machine: Machine) -> Iterator[Course | None]:
    """A run that is this process's own until the block ends, begun or gone on with; None if it is done.

    The block is under the run's autocast. Leaving it by an exception writes error.txt; a ``UsageError``
    before the first record removes a new folder.
    """
    for path in machine.plugin:
        registry.load_plugin(path)
    spec = spec.resolved(machine.data_dir)
    _check_folder(spec, folder)
    if (folder / "done").exists():
        yield None
        return
    built = build(spec, machine)
    with refusals(type(built.algorithm)):
        built.algorithm.optims  # noqa: B018  made now, while nothing is written
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with lease.hold(folder) as held:
        if (folder / "done").exists():  # meanwhile, by another process
            yield None
            return
        files.remove_leftovers(folder)
        files.replace_text(folder / "spec.json", json.dumps(spec.to_dict(), indent=1))
        (folder / "error.txt").unlink(missing_ok=True)
        try:
            course = _begin(built, folder, machine, held)
            with closing(course.shown), built.autocast():
                yield course
        except lease.Busy:
            raise
        except Exception as error:
            if created and isinstance(error, UsageError) and not (folder / "results.jsonl").exists():
                shutil.rmtree(folder)
                raise
            records.write_error(folder, traceback.format_exc())
            raise


def _begin(run: Built, folder: Path, machine: Machine, held: Lease) -> Course:
    """Take up the checkpoint, if there is one."""
    forget_peak_memory(run.device)
    averagers = averaging.make(run.spec.averaging, run.algorithm, run.training_images)
    state = State(run.algorithm, averagers, Meter())
    first = state.load(folder, run.device, lambda told: _log(folder, told))
    records.truncate(folder / "results.jsonl", first)
    for warning in (*run.dataset.warnings, *run.algorithm.warnings):
        _log(folder, f"warning: {warning}")
    name = run.spec.run_id()
    _log(folder, f"{name} on {run.device}: {'start' if first == 0 else f'go on at step {first}'}")
    shown = live.start(machine.log, folder, name, run.spec.to_dict(), first)
    return Course(run, folder, machine, held, state, shown, first)


def evaluate(run: Built) -> dict[str, float]:
    """{"domain/part/metric": value} over every part that selection or the table uses."""
    with run.autocast():
        if run.spec.task == "retrieval":
            return retrieval.evaluate(run)
        hidden = run.split.parts["test"] if run.spec.task == "domain_adaptation" else ()
        scored: list[tuple[Callable[..., dict[str, float]], dict[str, Pool]]] = [
            (accuracy, {part: pool for part, pool in run.split.evaluated.items() if part not in hidden}),
            (partial(accuracy, label_free=True), {part: run.split.evaluated[part] for part in hidden}),
            (pseudo_labels, {part: pool.sample(PSEUDO_LABELLED) for part, pool in run.split.pseudo.items()}),
        ]
        return {
            f"{part}/{name}": value
            for metrics, parts in scored
            for part, pool in parts.items()
            for name, value in metrics(run.algorithm, run.loader.evaluation(pool)).items()
        }


def validation_loss(run: Built, metrics: Mapping[str, float]) -> float:
    """The mean over the validation parts, in nats; NaN where a task has none."""
    parts = run.split.parts["validation"]
    return sum(metrics[f"{part}/loss"] for part in parts) / len(parts) if parts else math.nan


def _check_folder(spec: RunSpec, folder: Path) -> None:
    path = folder / "spec.json"
    if path.exists() and (other := RunSpec.from_dict(json.loads(path.read_text()))) != spec:
        theirs, ours = other.to_dict(), spec.to_dict()
        differs = ", ".join(f"{k}={theirs[k]!r}" for k in ours if ours[k] != theirs[k])
        raise UsageError(f"{folder} holds another run ({differs}); give another --output_dir")
    strangers = [
        f for f in folder.glob("*") if f.name not in (lease.NAME, lease.LOCK) and not f.name.startswith(".")
    ]
    if strangers and not path.exists():
        raise UsageError(f"{folder} is not empty and holds no run; give another --output_dir")


def summary(record: Mapping[str, Any]) -> str:
    """A record in one line: losses and accuracies."""
    shown = [
        f"{key.removesuffix('/acc')} {value:.3f}"
        for key, value in record["metrics"].items()
        if key.endswith("/acc") or "/P@" in key
    ]
    losses = [f"{key} {value:.4g}" for key, value in record["losses"].items()]
    return f"step {record['step']} {record['weights']}: " + " ".join(losses + shown)


def _log(folder: Path, text: str) -> None:
    files.append(folder / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())
