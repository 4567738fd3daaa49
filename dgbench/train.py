"""One run: ``python -m dgbench.train --dataset PACS --algorithm PCL --test_envs sketch --output_dir DIR``.

The folder holds spec.json, results.jsonl (one record per evaluation and kind of weights), log.txt,
checkpoint.pt, error.txt after a failure, and done, written last. A run that is killed anywhere goes on from
its checkpoint and ends with the same records and weights, bit for bit on one CPU machine.
"""

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import averaging, files, flags, hparams, records, registry, tasks
from .algorithm import Algorithm, Problem
from .checkpoint import State
from .errors import UsageError, exit_on_usage_error
from .evaluate import accuracy
from .loaders import Loader
from .machine import Machine, code_version, peak_memory_gb, prepare
from .meter import Meter
from .spec import RunSpec
from .tasks import Split
from .transforms import IMAGENET_MEAN, IMAGENET_STD


class Busy(UsageError):
    """Another process is writing this run."""


def run(
    spec: RunSpec, folder: Path, machine: Machine | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train, evaluate, record; returns the last record. Nothing is written before the spec and data are good.

    Raises ``UsageError`` for bad input; any other exception is also written to error.txt.
    """
    machine = machine or Machine()
    for path in machine.plugin:
        registry.load_plugin(path)
    spec = spec.resolved(machine.data_dir)
    method, hp = check(spec)
    _check_folder(spec, folder)
    if (folder / "done").exists():
        return _last_record(folder)
    device = prepare(machine)
    dataset = _dataset(spec, machine)
    split = tasks.TASKS[spec.task](spec, dataset, dataset.domain_names(machine.data_dir))
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder / "lock") as free:
        if not free:
            raise UsageError(
                f"{folder} is being written by another process; wait for it or give another folder"
            )
        files.remove_leftovers(folder)
        files.replace_text(folder / "spec.json", json.dumps(spec.to_dict(), indent=1))
        (folder / "error.txt").unlink(missing_ok=True)
        try:
            return _train(spec, folder, machine, split, method, hp, dataset, device, progress)
        except UsageError:
            if created:
                _remove(folder)
            raise
        except Exception:
            files.replace_text(folder / "error.txt", traceback.format_exc())
            raise


def _train(
    spec: RunSpec,
    folder: Path,
    machine: Machine,
    split: Split,
    method: type[Algorithm],
    hp: Mapping[str, Any],
    dataset: Any,
    device: torch.device,
    progress: bool,
) -> dict[str, Any]:
    """The loop, top to bottom."""
    assert spec.steps is not None
    seed = hparams.seed_hash(spec.trial_seed, spec.seed)
    loader = _loader(spec, hp, split, dataset, seed, device)
    steps_per_epoch = min(len(pool) for pool in split.labelled) / hp["batch_size"]
    problem = _problem(spec, split, dataset, loader.size, steps_per_epoch)

    torch.manual_seed(hparams.seed_hash(seed, "weights"))
    algorithm = method(problem, hp).to(device).to(memory_format=torch.channels_last)
    algorithm.train()
    averagers = averaging.make(spec.averaging, algorithm)
    state = State(algorithm, averagers, meter := Meter())
    first = state.load(folder, device)
    records.truncate(folder / "results.jsonl", first)
    head = _head(spec, hp, split)
    for warning in dataset.warnings:
        _log(folder, f"warning: {warning}")
    _log(folder, f"{spec.run_id()} on {device}: {'start' if first == 0 else f'go on at step {first}'}")

    evaluations = set(records.evaluation_steps(spec))
    bar = tqdm(range(first, spec.steps), initial=first, total=spec.steps, disable=not progress, unit="step")
    for step in bar:
        if step % max(1, int(steps_per_epoch)) == 0:
            algorithm.begin_epoch(loader.epoch_pools(split))
        with _autocast(spec, device):
            update(state, loader, step, seed)

        if step not in evaluations:
            continue
        last = step == spec.steps - 1
        losses, timing = meter.read()
        for weights in ("raw", *averagers):
            if weights != "raw" and not averagers[weights].ready(step, last):
                continue
            with averagers[weights].swapped(algorithm) if weights != "raw" else nullcontext():
                started = time.perf_counter()
                with _autocast(spec, device):
                    metrics = evaluate(algorithm, loader, split)
            if weights == "raw":
                validation = [metrics[f"{part}/loss"] for part in split.parts["validation"]]
                for averager in averagers.values():
                    averager.evaluated(algorithm, step, sum(validation) / len(validation))
            record = {
                **head,
                "step": step,
                "epoch": step / steps_per_epoch,
                "weights": weights,
                "losses": losses,
                "metrics": metrics,
                **timing,
                "memory_gb": peak_memory_gb(device),
            }
            record["seconds"] = {**timing["seconds"], "evaluate": time.perf_counter() - started}
            if weights != "raw":
                record["averaging"] = averagers[weights].info()
            records.append(folder / "results.jsonl", record)
            _log(folder, summary(record))
            bar.set_postfix_str(summary(record), refresh=False)
        state.save(folder, step + 1)

    state.finish(folder, keep_weights=not machine.skip_model_save)
    _log(folder, "done")
    return _last_record(folder)


def update(state: State, loader: Loader, step: int, seed: int) -> None:
    """One step: batch, update, averages. Nothing in it waits for the device."""
    batch = loader.batch(step)
    torch.manual_seed(hparams.seed_hash(seed, step))  # dropout and mixing are functions of the step
    state.algorithm.step = step
    state.meter.add(state.algorithm.update(batch), len(batch.x))
    for averager in state.averagers.values():
        averager.update(state.algorithm, step)


def evaluate(algorithm: Algorithm, loader: Loader, split: Split) -> dict[str, float]:
    """{"domain/part/metric": value} over every part that selection or the table uses."""
    return {
        f"{part}/{metric}": value
        for part, pool in split.evaluated.items()
        for metric, value in accuracy(algorithm, loader.evaluation(pool)).items()
    }


def check(spec: RunSpec) -> tuple[type[Algorithm], dict[str, Any]]:
    """The method and its hyper-parameters; ``UsageError`` if the task cannot give what the method needs."""
    method = registry.find("algorithms", spec.algorithm)
    assert issubclass(method, Algorithm)
    for need in method.needs:
        if need not in tasks.GIVES[spec.task]:
            able = [task for task, gives in tasks.GIVES.items() if need in gives]
            raise UsageError(
                f"{method.__name__} needs {need} images, which {spec.task} does not give; "
                f"choose from: {', '.join(able) or 'no task yet'}"
            )
    if spec.task not in method.tasks:
        raise UsageError(
            f"{method.__name__} does not run under {spec.task}; choose from: {', '.join(method.tasks)}"
        )
    dataset = registry.find("datasets", spec.dataset)
    hp = hparams.resolve(method, dataset, spec.hparams, spec.hparams_seed, spec.trial_seed)
    if hp["batch_size"] < 1:
        raise UsageError(f"hyper-parameter batch_size={hp['batch_size']} must be at least 1")
    return method, hp


def _dataset(spec: RunSpec, machine: Machine) -> Any:
    cls: Any = registry.find("datasets", spec.dataset)
    return cls(machine.data_dir, spec.trial_seed, spec.image_size or None, machine.cache)


def _loader(
    spec: RunSpec, hp: Mapping[str, Any], split: Split, dataset: Any, seed: int, device: torch.device
) -> Loader:
    images = split.labelled[0].domain.images
    return Loader(
        split.labelled,
        batch_size=hp["batch_size"],
        seed=seed,
        view=dataset.augmentation if hp["data_augmentation"] else "none",
        size=spec.image_size or images.shape[1],
        mean_std=(IMAGENET_MEAN, IMAGENET_STD) if dataset.input_shape is None else None,
        class_balanced=hp["class_balanced"],
        device=device,
    )


def _problem(spec: RunSpec, split: Split, dataset: Any, size: int, steps_per_epoch: float) -> Problem:
    assert spec.backbone and spec.pretrained and spec.steps
    return Problem(
        input_shape=dataset.input_shape or (3, size, size),
        num_classes=dataset.num_classes,
        num_domains=len(split.labelled),
        num_steps=spec.steps,
        steps_per_epoch=max(1, int(steps_per_epoch)),
        labelled_sizes=tuple(map(len, split.labelled)),
        unlabelled_sizes=tuple(map(len, split.unlabelled)),
        backbone=spec.backbone,
        pretrained=spec.pretrained,
        freeze_bn=bool(spec.freeze_bn),
    )


def _last_record(folder: Path) -> dict[str, Any]:
    return records.read_lines(folder / "results.jsonl")[0][-1]


def _autocast(spec: RunSpec, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if spec.precision == "bf16" else nullcontext()


def _check_folder(spec: RunSpec, folder: Path) -> None:
    path = folder / "spec.json"
    if path.exists() and (other := RunSpec.from_dict(json.loads(path.read_text()))) != spec:
        theirs, ours = other.to_dict(), spec.to_dict()
        differs = ", ".join(f"{k}={theirs[k]!r}" for k in ours if ours[k] != theirs[k])
        raise UsageError(f"{folder} holds another run ({differs}); give another --output_dir")
    strangers = [f for f in folder.glob("*") if f.name != "lock" and not f.name.startswith(".")]
    if strangers and not path.exists():
        raise UsageError(f"{folder} is not empty and holds no run; give another --output_dir")


def _head(spec: RunSpec, hp: Mapping[str, Any], split: Split) -> dict[str, Any]:
    return {
        "run": spec.run_id(),
        "spec": spec.to_dict(),
        "hparams": dict(hp),
        "parts": split.parts,
        "fingerprint": {
            name: {"images": len(domain), "hash": domain.fingerprint}
            for name, domain in split.domains.items()
        },
        "pretrained": spec.pretrained,
        "code": code_version(),
    }


def summary(record: Mapping[str, Any]) -> str:
    shown = [
        f"{key.removesuffix('/acc')} {value:.3f}"
        for key, value in record["metrics"].items()
        if key.endswith("/acc")
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
    record = run(RunSpec(**flags.spec_values(args)), args.output_dir, machine, progress=sys.stderr.isatty())
    print(summary(record))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
