"""(spec, machine) -> everything a run needs: data, method, loader, the head of its records."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from . import averaging, hparams, networks, registry, tasks
from .algorithm import Algorithm, Problem
from .dataset import Dataset
from .errors import UsageError
from .loaders import Loader
from .machine import Machine, code_version, prepare
from .spec import RunSpec
from .tasks import Split


@dataclass(frozen=True)
class Built:
    """A run before its first update."""

    spec: RunSpec
    seed: int  # of weights, batches, views and dropout
    device: torch.device
    dataset: Dataset
    split: Split
    loader: Loader
    algorithm: Algorithm
    steps_per_epoch: float
    head: dict[str, Any]  # what every record of the run begins with

    def training_images(self) -> Iterator[Tensor]:
        """Training batches (N, C, H, W) in the order of the steps, for estimating statistics."""
        return (self.loader.batch(step).x for step in count())

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of updates and evaluations."""
        bf16 = self.spec.precision == "bf16"
        if not bf16:
            return nullcontext()
        # without the cache of cast weights, which is wrong once an inner step has changed them
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)


def check(spec: RunSpec) -> tuple[type[Algorithm], dict[str, Any]]:
    """The method and its hyper-parameters; ``UsageError`` if the task cannot give what the method needs."""
    method = registry.find("algorithms", spec.algorithm)
    assert issubclass(method, Algorithm)
    method = method.specialised(spec.hparams)
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
    for text in spec.averaging:
        averaging.parse(text)
    dataset = registry.find("datasets", spec.dataset)
    hp = hparams.resolve(method, dataset, spec.hparams, spec.hparams_seed, spec.trial_seed)
    if hp["batch_size"] < 1:
        raise UsageError(f"hyper-parameter batch_size={hp['batch_size']} must be at least 1")
    if hp["nesterov"] and hp["momentum"] <= 0:
        raise UsageError("hyper-parameter nesterov=True needs a momentum above 0")
    return method, hp


def build(spec: RunSpec, machine: Machine) -> Built:
    """Load the data, make the method; ``UsageError`` for bad input, nothing is written."""
    method, hp = check(spec)
    device = prepare(machine)
    cls: Any = registry.find("datasets", spec.dataset)
    dataset: Dataset = cls(machine.data_dir, spec.trial_seed, spec.image_size or None, machine.cache)
    split = tasks.TASKS[spec.task](spec, dataset, dataset.domain_names(machine.data_dir))
    if len(split.labelled) < method.min_domains:
        raise UsageError(
            f"{method.__name__} needs at least {method.min_domains} source domains, "
            f"{len(split.labelled)} are left; choose fewer targets or a data set with more domains"
        )
    seed = hparams.seed_hash(spec.trial_seed, spec.seed)
    size = spec.image_size or split.labelled[0].domain.images.shape[1]
    steps_per_epoch = min(len(pool) for pool in split.labelled) / hp["batch_size"]
    problem = _problem(spec, split, dataset, size, steps_per_epoch)
    torch.manual_seed(hparams.seed_hash(seed, "weights"))
    algorithm = method(problem, hp)
    head = _head(spec, hp, split, algorithm)  # hashes pretrained weights before they train
    algorithm.to(device).to(memory_format=torch.channels_last)
    algorithm.train()
    loader = Loader(
        split.labelled,
        batch_size=hp["batch_size"],
        seed=seed,
        view=dataset.views["train"] if hp["data_augmentation"] else "none",
        size=size,
        mean_std=networks.mean_and_std(problem.backbone) if dataset.input_shape is None else None,
        class_balanced=hp["class_balanced"],
        sampling=dataset.sampling,
        device=device,
        workers=machine.data_workers,
    )
    return Built(spec, seed, device, dataset, split, loader, algorithm, steps_per_epoch, head)


def _problem(spec: RunSpec, split: Split, dataset: Dataset, size: int, steps_per_epoch: float) -> Problem:
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


def _head(spec: RunSpec, hp: Mapping[str, Any], split: Split, algorithm: Algorithm) -> dict[str, Any]:
    weights = "" if spec.pretrained == "none" else "-" + _hash(algorithm.featurizer)
    return {
        "run": spec.run_id(),
        "spec": spec.to_dict(),
        "hparams": dict(hp),
        "parts": split.parts,
        "fingerprint": {
            name: {"images": len(domain), "hash": domain.fingerprint}
            for name, domain in split.domains.items()
        },
        "pretrained": f"{spec.pretrained}{weights}",
        "code": code_version(),
    }


def _hash(module: torch.nn.Module) -> str:
    """8 hex digits of the SHA-256 of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:8]
