"""One run: ``python -m dgbench.train --dataset PACS --algorithm PCL --test_envs sketch --output_dir DIR``.

The folder holds spec.json, results.jsonl (one record per evaluation and kind of weights), log.txt,
checkpoint.pt, error.txt after a failure, and done, written last. A run that is killed anywhere goes on from
its checkpoint and ends with the same records and weights, bit for bit on one CPU machine.
"""

import json
import math
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import averaging, files, flags, hparams, live, records, registry, retrieval, schedule
from .build import Built, build
from .checkpoint import State
from .errors import UsageError, exit_on_usage_error
from .evaluate import accuracy, pseudo_labels
from .loaders import Loader
from .machine import Machine, peak_memory_gb
from .meter import Meter
from .spec import RunSpec


class Busy(UsageError):
    """Another process is writing this run."""


def run(
    spec: RunSpec, folder: Path, machine: Machine | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train, evaluate, record; returns the last record. Nothing is written before the spec and data are good.

    Raises ``UsageError`` for bad input; any other exception is also written to error.txt.
    """
    machine = machine or Machine()
    with opened(spec, folder, machine) as built:
        if built is not None:
            _train(begin(built, folder, machine), progress)
    return last_record(folder)


@contextmanager
def opened(spec: RunSpec, folder: Path, machine: Machine) -> Iterator[Built | None]:
    """A run whose folder is this process's own until the end of the block; None if it is done.

    Leaving the block by an exception writes error.txt, or after a ``UsageError`` removes a new folder.
    """
    for path in machine.plugin:
        registry.load_plugin(path)
    spec = spec.resolved(machine.data_dir)
    _check_folder(spec, folder)
    if (folder / "done").exists():
        yield None
        return
    built = build(spec, machine)
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder / "lock") as free:
        if not free:
            raise Busy(f"{folder} is being written by another process; wait or give another folder")
        files.remove_leftovers(folder)
        files.replace_text(folder / "spec.json", json.dumps(spec.to_dict(), indent=1))
        (folder / "error.txt").unlink(missing_ok=True)
        try:
            yield built
        except UsageError:
            if created:
                _remove(folder)
            raise
        except Exception:
            files.replace_text(folder / "error.txt", traceback.format_exc())
            raise


@dataclass
class Course:
    """A run under way in its folder. first: the update that it began or goes on with."""

    run: Built
    folder: Path
    machine: Machine
    state: State
    shown: live.Log
    first: int

    def checkpoint(self, step: int) -> str:
        """Evaluate every kind of weights after update ``step``, record, save; returns the last summary."""
        run, state = self.run, self.state
        last = step + 1 == run.spec.steps
        losses, timing = state.meter.read()
        text = ""
        for weights in ("raw", *state.averagers):
            if weights != "raw" and not state.averagers[weights].ready(step, last):
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
            records.append(self.folder / "results.jsonl", record)
            self.shown.write(record)
            text = summary(record)
            log(self.folder, text)
        state.save(self.folder, step + 1)
        state.meter.start()
        return text

    def end(self) -> None:
        """Write the weights and ``done``."""
        self.shown.close()
        self.state.finish(self.folder, not self.machine.skip_model_save)
        log(self.folder, "done")


def begin(run: Built, folder: Path, machine: Machine) -> Course:
    """Take up the checkpoint, if there is one."""
    spec, algorithm = run.spec, run.algorithm
    averagers = averaging.make(spec.averaging, algorithm, run.training_images)
    state = State(algorithm, averagers, Meter())
    first = state.load(folder, run.device)
    records.truncate(folder / "results.jsonl", first)
    for warning in run.dataset.warnings:
        log(folder, f"warning: {warning}")
    log(folder, f"{spec.run_id()} on {run.device}: {'start' if first == 0 else f'go on at step {first}'}")
    shown = live.start(machine.log, folder, spec.run_id(), spec.to_dict(), first)
    return Course(run, folder, machine, state, shown, first)


def _train(course: Course, progress: bool) -> None:
    """The loop, top to bottom."""
    run, spec, algorithm = course.run, course.run.spec, course.run.algorithm
    assert spec.steps is not None
    evaluations = set(records.evaluation_steps(spec))
    steps = range(course.first, spec.steps)
    bar = tqdm(steps, initial=course.first, total=spec.steps, disable=not progress, unit="step")
    for step in bar:
        if step % algorithm.problem.steps_per_epoch == 0:
            algorithm.begin_epoch(run.loader.epoch_pools(run.split))
        with run.autocast():
            update(course.state, run.loader, step, run.seed)
        if step in evaluations:
            bar.set_postfix_str(course.checkpoint(step), refresh=False)
    course.end()


def update(state: State, loader: Loader, step: int, seed: int) -> None:
    """One step: batch, update, averages. Nothing in it waits for the device."""
    batch = loader.batch(step)
    seed_all(hparams.seed_hash(seed, step), loader.device)  # dropout and mixing are functions of the step
    state.algorithm.step = step
    schedule.apply(state.algorithm)
    state.meter.add(state.algorithm.update(batch), batch.images)
    for averager in state.averagers.values():
        averager.update(state.algorithm, step)


def seed_all(seed: int, device: torch.device) -> None:
    """``torch.manual_seed`` of the generators that a run on this device reads.

    On the CPU its own alone: for a GPU that is not in use, torch would format the stack each time.
    """
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(seed)


def evaluate(run: Built) -> dict[str, float]:
    """{"domain/part/metric": value} over every part that selection or the table uses."""
    with run.autocast():
        if run.spec.task == "retrieval":
            return retrieval.evaluate(run)
        scored = [(accuracy, run.split.evaluated), (pseudo_labels, run.split.pseudo)]
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


def last_record(folder: Path) -> dict[str, Any]:
    """The last line of the run's records."""
    return records.read_lines(folder / "results.jsonl")[0][-1]


def _check_folder(spec: RunSpec, folder: Path) -> None:
    path = folder / "spec.json"
    if path.exists() and (other := RunSpec.from_dict(json.loads(path.read_text()))) != spec:
        theirs, ours = other.to_dict(), spec.to_dict()
        differs = ", ".join(f"{k}={theirs[k]!r}" for k in ours if ours[k] != theirs[k])
        raise UsageError(f"{folder} holds another run ({differs}); give another --output_dir")
    strangers = [f for f in folder.glob("*") if f.name != "lock" and not f.name.startswith(".")]
    if strangers and not path.exists():
        raise UsageError(f"{folder} is not empty and holds no run; give another --output_dir")


def summary(record: Mapping[str, Any]) -> str:
    """A record in one line: losses and accuracies."""
    shown = [
        f"{key.removesuffix('/acc')} {value:.3f}"
        for key, value in record["metrics"].items()
        if key.endswith("/acc")
    ]
    losses = [f"{key} {value:.4g}" for key, value in record["losses"].items()]
    return f"step {record['step']} {record['weights']}: " + " ".join(losses + shown)


def log(folder: Path, text: str) -> None:
    """Add a line to the run's log."""
    with open(folder / "log.txt", "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.train", description=__doc__.split("\n")[0])
    flags.add_spec_flags(parser)
    flags.add_machine_flags(parser)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: all")
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    args = parser.parse_args(argv)
    machine = Machine(**{f.name: getattr(args, f.name) for f in fields(Machine)})
    for path in machine.plugin:
        registry.load_plugin(path)
    record = run(RunSpec(**flags.spec_values(args)), args.output_dir, machine, progress=sys.stderr.isatty())
    print(summary(record))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
