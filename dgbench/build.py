"""(spec, machine) -> everything a run needs: data, method, loader, the head of its records."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import averaging, features, hparams, label_split, networks, registry, tasks
from .algorithm import Algorithm, Problem
from .dataset import Dataset
from .errors import UsageError
from .loaders import Loader
from .machine import Machine, code_version, place, prepare
from .spec import RunSpec
from .stream import Draw
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
        batches = (self.loader.batch(step) for step in count())
        return (batch.x if batch.u is None or len(batch.x) else batch.u for batch in batches)

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
            able = [task for task, gives in tasks.GIVES.items() if need in gives and task in method.tasks]
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
        if text.startswith("swad") and spec.task == "retrieval":
            raise UsageError("swad reads validation losses, which retrieval lacks; choose from: ema, swa")
    dataset = registry.find("datasets", spec.dataset)
    hp = hparams.resolve(method, dataset, spec.hparams, spec.hparams_seed, spec.trial_seed)
    if hp["nonlinear_classifier"] and method.own_classifier:
        raise UsageError(
            f"{method.__name__} has a classifier of its own; choose from: nonlinear_classifier=false"
        )
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
    _check_images(dataset, split)
    if spec.label_split:
        split = label_split.apply(label_split.find(machine.label_split, spec.label_split), split, dataset)
    sources = len(split.labelled or split.unlabelled)
    if sources < method.min_domains:
        raise UsageError(
            f"{method.__name__} needs at least {method.min_domains} source domains, "
            f"{sources} are left; choose fewer targets or a data set with more domains"
        )
    seed = hparams.seed_hash(spec.trial_seed, spec.seed)
    size = spec.image_size or split.training[0].domain.images.shape[1]
    assert spec.backbone and spec.pretrained
    mean_std = dataset.mean_std if dataset.input_shape else networks.mean_and_std(spec.backbone)
    shape, weights = dataset.input_shape or (3, size, size), ""
    if spec.frozen:
        source = features.Source(spec.backbone, spec.pretrained, shape, mean_std)
        split, weights = source.of(split, machine.cache, device), source.weights
        shape, size, mean_std = (split.training[0].domain.images.shape[-1], 1, 1), 1, None
    draws = _draws(spec, method, hp, dataset, split)
    steps_per_epoch = _steps_per_epoch(spec, *draws)
    problem = _problem(spec, split, dataset, shape, steps_per_epoch)
    torch.manual_seed(hparams.seed_hash(seed, "weights"))
    with refusals(method):
        algorithm = method(problem, hp)
    if spec.pretrained != "none" and not weights:
        weights = features.weights_hash(algorithm.featurizer)  # before they train
    head = _head(spec, hp, split, weights)
    place(algorithm, device)
    algorithm.train()
    if spec.compile:
        algorithm.featurizer.compile()
    loader = Loader(draws[0], seed, size, mean_std, device, machine.data_workers, draws[1])
    return Built(spec, seed, device, dataset, split, loader, algorithm, steps_per_epoch, head)


def _check_images(dataset: Dataset, split: Split) -> None:
    """``UsageError`` where a view would scale images to a shape that the network is not made for."""
    for name, domain in split.domains.items():
        height, width, channels = domain.images.shape[1:]
        declared = dataset.input_shape and tuple(dataset.input_shape)
        if declared and (declared != (channels, height, width) or height != width):
            raise UsageError(
                f"{type(dataset).__name__}: images of {name} are {channels} x {height} x {width}, its "
                f"input_shape is {declared}; make both one shape (C, H, W) with H = W"
            )


@contextmanager
def refusals(method: type[Algorithm]) -> Iterator[None]:
    """A value that torch refuses is the user's mistake; other errors keep their traceback."""
    try:
        yield
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not Path(frames[-1].filename).is_relative_to(Path(torch.__file__).parent):
            raise
        raise UsageError(f"{method.__name__} cannot train with these hyper-parameters: {error}") from error


def _draws(
    spec: RunSpec, method: type[Algorithm], hp: Mapping[str, Any], dataset: Dataset, split: Split
) -> tuple[Draw, Draw | None]:
    """What a step draws of the labelled and of the unlabelled pools."""
    rows, views = hp["batch_size"], dataset.views
    if spec.frozen:
        views = dict.fromkeys(views, "none")
    weak = views["weak" if tasks.GIVES[spec.task] else "train"] if hp["data_augmentation"] else "none"
    needs, both = method.needed(hp), [weak, views["strong"]]
    drawn = both if "strong_labelled" in needs else [weak]
    labelled = Draw(split.labelled, rows, drawn, dataset.sampling, hp["class_balanced"])
    if "unlabelled" not in needs:
        return labelled, None
    rows *= hp["unlabelled_ratio"]
    if spec.task == "retrieval":
        drawn = [views["two"] if hp["data_augmentation"] else "none"] * (1 + ("two" in needs))
        return labelled, Draw(split.unlabelled, rows, drawn, "epochs")
    return labelled, Draw(split.unlabelled, rows, both if "strong" in needs else [weak], dataset.sampling)


def _steps_per_epoch(spec: RunSpec, labelled: Draw, unlabelled: Draw | None) -> float:
    """Updates in which the least pool that a method trains on is seen once; of retrieval, the largest.

    Unlabelled images count where there are any.
    """
    draw = unlabelled or labelled
    least = max if spec.task == "retrieval" else min
    return least(map(len, draw.pools)) / draw.batch_size


def _problem(
    spec: RunSpec, split: Split, dataset: Dataset, shape: tuple[int, int, int], steps_per_epoch: float
) -> Problem:
    assert spec.backbone and spec.pretrained and spec.steps
    sizes = tuple(map(len, split.labelled)), tuple(map(len, split.unlabelled))
    return Problem(
        input_shape=shape,
        num_classes=dataset.num_classes,
        num_domains=len(sizes[0] or sizes[1]),
        num_steps=spec.steps,
        steps_per_epoch=max(1, int(steps_per_epoch)),
        labelled_sizes=sizes[0],
        unlabelled_sizes=sizes[1],
        unlabelled_are_sources=[p.domain.name for p in split.labelled]
        == [p.domain.name for p in split.unlabelled],
        backbone=spec.backbone,
        pretrained=spec.pretrained,
        freeze_bn=bool(spec.freeze_bn),
        frozen=spec.frozen,
        class_names=dataset.class_names(),
    )


def _head(spec: RunSpec, hp: Mapping[str, Any], split: Split, weights: str) -> dict[str, Any]:
    """weights: a hash of the pretrained or frozen ones, else empty."""
    return {
        "run": spec.run_id(),
        "spec": spec.to_dict(),
        "hparams": dict(hp),
        "parts": split.parts,
        "fingerprint": {
            name: {"images": len(domain), "hash": domain.fingerprint}
            for name, domain in split.domains.items()
        },
        "pretrained": f"{spec.pretrained}-{weights}" if weights else spec.pretrained,
        "code": "+".join(filter(None, (code_version(), registry.plugin_version(spec.algorithm)))),
    }
