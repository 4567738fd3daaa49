"""One run: ``python -m dgbench.train --dataset PACS --algorithm PCL --test_envs sketch --output_dir DIR``.

The folder holds spec.json, results.jsonl (one record per evaluation and kind of weights), log.txt,
checkpoint.pt and the one before, error.txt after a failure, and done, written last; lease.json while a
process writes it. A run that is killed anywhere goes on from its checkpoint and ends with the same records
and weights, bit for bit on one CPU machine.
"""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import averaging, files, flags, hparams, lease, live, records, registry, retrieval, schedule
from .build import Built, build
from .checkpoint import State
from .errors import UsageError, exit_on_usage_error
from .evaluate import accuracy, pseudo_labels
from .lease import Lease
from .loaders import Loader
from .machine import Machine, peak_memory_gb
from .meter import Meter
from .spec import RunSpec
from .tasks import Pool


def run(
    spec: RunSpec, folder: Path, machine: Machine | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train, evaluate, record; returns the last record. Nothing is written before the spec and data are good.

    Raises ``UsageError`` for bad input, ``Busy`` while another process writes the folder; any other exception
    is also written to error.txt.
    """
    machine = machine or Machine()
    for path in machine.plugin:
        registry.load_plugin(path)
    spec = spec.resolved(machine.data_dir)
    _check_folder(spec, folder)
    if (folder / "done").exists():
        return _last_record(folder)
    built = build(spec, machine)
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with lease.hold(folder) as held:
        if (folder / "done").exists():  # meanwhile, by another process
            return _last_record(folder)
        files.remove_leftovers(folder)
        files.replace_text(folder / "spec.json", json.dumps(spec.to_dict(), indent=1))
        (folder / "error.txt").unlink(missing_ok=True)
        try:
            return _train(built, folder, machine, held, progress)
        except lease.Busy:
            raise
        except UsageError:
            if created:
                _remove(folder)
            raise
        except Exception:
            records.write_error(folder, traceback.format_exc())
            raise


def _train(run: Built, folder: Path, machine: Machine, held: Lease, progress: bool) -> dict[str, Any]:
    """The loop, top to bottom."""
    spec, algorithm, loader = run.spec, run.algorithm, run.loader
    assert spec.steps is not None
    averagers = averaging.make(spec.averaging, algorithm, run.training_images)
    state = State(algorithm, averagers, meter := Meter())
    first = state.load(folder, run.device, lambda told: _log(folder, told))
    records.truncate(folder / "results.jsonl", first)
    for warning in (*run.dataset.warnings, *algorithm.warnings):
        _log(folder, f"warning: {warning}")
    _log(folder, f"{spec.run_id()} on {run.device}: {'start' if first == 0 else f'go on at step {first}'}")

    shown = live.start(machine.log, folder, spec.run_id(), spec.to_dict(), first)
    evaluations = set(records.evaluation_steps(spec))
    saved, save_every = time.monotonic(), machine.checkpoint_every_min * 60 or math.inf
    bar = tqdm(range(first, spec.steps), initial=first, total=spec.steps, disable=not progress, unit="step")
    for step in bar:
        with run.autocast():
            if step % algorithm.problem.steps_per_epoch == 0:
                algorithm.step = step
                algorithm.begin_epoch(loader.epoch_pools(run.split))
            update(state, loader, step, run.seed)

        if step not in evaluations:
            if time.monotonic() - saved > save_every:
                held.check()
                state.save(folder, step + 1)
                saved = time.monotonic()
            continue
        last = step == spec.steps - 1
        losses, timing = meter.read()
        for weights in ("raw", *averagers):
            if weights != "raw" and not averagers[weights].ready(step, last):
                continue
            with averagers[weights].swapped(algorithm) if weights != "raw" else nullcontext():
                started = time.perf_counter()
                metrics = evaluate(run)
                seconds = {**timing["seconds"], "evaluate": time.perf_counter() - started}
            if weights == "raw":
                for averager in averagers.values():
                    averager.evaluated(algorithm, step, validation_loss(run, metrics))
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
                record["averaging"] = averagers[weights].info()
            held.check()
            records.append(folder / "results.jsonl", record)
            shown.write(record)
            _log(folder, summary(record))
            bar.set_postfix_str(summary(record), refresh=False)
        held.check()
        state.save(folder, step + 1)
        saved = time.monotonic()

    shown.close()
    state.finish(folder, not machine.skip_model_save)
    _log(folder, "done")
    return _last_record(folder)


def update(state: State, loader: Loader, step: int, seed: int) -> None:
    """One step: batch, update, averages. Nothing in it waits for the device."""
    batch = loader.batch(step)
    torch.manual_seed(hparams.seed_hash(seed, step))  # dropout and mixing are functions of the step
    state.algorithm.step = step
    schedule.apply(state.algorithm)
    images = len(batch.x) + (0 if batch.u is None else len(batch.u))
    state.meter.add(state.algorithm.update(batch), images)
    for averager in state.averagers.values():
        averager.update(state.algorithm, step)


def evaluate(run: Built) -> dict[str, float]:
    """{"domain/part/metric": value} over every part that selection or the table uses."""
    with run.autocast():
        if run.spec.task == "retrieval":
            return retrieval.evaluate(run)
        hidden = run.split.parts["test"] if run.spec.task == "domain_adaptation" else ()
        scored: list[tuple[Callable[..., dict[str, float]], dict[str, Pool]]] = [
            (accuracy, {part: pool for part, pool in run.split.evaluated.items() if part not in hidden}),
            (partial(accuracy, label_free=True), {part: run.split.evaluated[part] for part in hidden}),
            (pseudo_labels, run.split.pseudo),
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


def _last_record(folder: Path) -> dict[str, Any]:
    return records.read_lines(folder / "results.jsonl")[0][-1]


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
    lease.Watch().wait(args.output_dir)
    record = run(RunSpec(**flags.spec_values(args)), args.output_dir, machine, progress=sys.stderr.isatty())
    print(summary(record))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
