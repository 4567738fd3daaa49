"""The contract: promises that every method keeps. ``tests/test_contract.py`` holds all methods to them and
``python -m dgbench.check`` holds a user's.

A promise is a function of the class; it raises ``Broken`` with what it saw, or returns why it does not apply.
"""

import ast
import copy
import inspect
import json
import re
import tempfile
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import averaging, hparams, registry
from .algorithm import Algorithm, Batch, Logs, Problem
from .build import build as build_run
from .checkpoint import State
from .collect.evidence import score
from .datasets.rotateddigits import RotatedDigits
from .errors import UsageError
from .machine import Machine
from .meter import Meter
from .one_device import OneDevice
from .spec import RunSpec
from .tasks import Split
from .train import run, update

DOMAINS, ROWS, CLASSES, POOL = 3, 8, 4, 50
PROBLEM = Problem((1, 8, 8), CLASSES, DOMAINS, 6, 2, (POOL,) * DOMAINS, (POOL,) * DOMAINS, "digits_cnn")
SURE = 30.0
"""Times a new classifier's weights: its predictions are then of several classes, and some are confident."""
Method = type[Algorithm]
TRAINERS = ("item", "cuda", "cpu", "print", "open")


class Broken(AssertionError):
    """A promise that the method breaks."""


class Recording(UserDict[str, Any]):
    """Hyper-parameters that remember which of them were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def build(method: Method, **chosen: Any) -> Algorithm:
    """A small instance in training mode, from seed 0."""
    torch.manual_seed(0)
    algorithm = method(PROBLEM, Recording(hparams.resolve(method, RotatedDigits, chosen)))
    algorithm.train()
    return algorithm


def make_batch(step: int = 0, labelled: bool = True) -> Batch:
    """A batch of noise with every field filled; those of labelled rows empty where there are none."""
    r = torch.Generator().manual_seed(step)
    n = DOMAINS * ROWS
    domain = torch.arange(DOMAINS).repeat_interleave(ROWS)

    def images() -> Tensor:
        return torch.rand(n, 1, 8, 8, generator=r)

    def rows() -> Tensor:
        return torch.randint(POOL, (n,), generator=r)

    y = torch.randint(CLASSES, (n,), generator=r)
    x, d, idx, x2 = images(), domain, rows(), images()
    if not labelled:
        x, y, d, idx, x2 = x[:0], y[:0], d[:0], idx[:0], x2[:0]
    return Batch(x, y, d, idx, DOMAINS, x2, images(), images(), domain, rows(), DOMAINS)


def train(algorithm: Algorithm, steps: range) -> list[Logs]:
    """Updates as the trainer makes them; their logs."""
    logs = []
    labelled = algorithm.tasks != ("retrieval",)
    for step in steps:
        algorithm.step = step
        if step % PROBLEM.steps_per_epoch == 0:
            algorithm.begin_epoch(_pools(labelled))
        torch.manual_seed(step)
        logs.append(algorithm.update(make_batch(step, labelled)))
    return logs


def _pools(labelled: bool) -> list[list[Tensor]]:
    """What ``begin_epoch`` gets: a pool yields batches of images."""
    r = torch.Generator().manual_seed(0)
    count = DOMAINS * (1 + labelled)
    return [[torch.rand(POOL // 2, 1, 8, 8, generator=r) for _ in range(2)] for _ in range(count)]


def logs_are_finite_detached_scalars(method: Method) -> str | None:
    for logs in train(build(method), range(3)):
        _require("loss" in logs, "update logs no 'loss'")
        for key, value in logs.items():
            fine = isinstance(value, Tensor) and value.shape == () and not value.requires_grad
            _require(fine and bool(torch.isfinite(value)), f"the log {key} is {value!r}")
    return None


def every_parameter_moves(method: Method) -> str | None:
    algorithm = build(method)
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    train(algorithm, range(4))
    pattern = algorithm.quirks.get("unmoved", "$^")
    still = {key for key, value in algorithm.named_parameters() if torch.equal(value, before[key])}
    told = {key for key in before if re.fullmatch(pattern, key)}
    _require(still == told, f"parameters that do not move: {sorted(still)}; declared: {sorted(told)}")
    return None


def features_and_logits_have_their_shapes(method: Method) -> str | None:
    algorithm, x = build(method).eval(), make_batch().x
    out = algorithm(x)
    embeds = method.tasks == ("retrieval",)
    shape = (len(x), out.shape[1] if embeds else CLASSES)
    _require(out.shape == shape, f"forward gives {tuple(out.shape)}")
    try:
        z = algorithm.features(x)
    except UsageError as error:
        return str(error)  # a class of DomainBed's form need not have any
    _require(z.ndim == 2 and len(z) == len(x), f"features gives {tuple(z.shape)}")
    return None


def evaluation_does_not_depend_on_the_rest_of_the_batch(method: Method) -> str | None:
    if "batch" in method.quirks:
        return method.quirks["batch"]
    algorithm, x = build(method), make_batch().x
    train(algorithm, range(2))
    algorithm.eval()
    _close(algorithm(x)[:5], algorithm(x[:5]), "logits of an image alone and in a batch")
    return None


def same_seed_same_weights(method: Method) -> str | None:
    first, second = build(method), build(method)
    train(first, range(3))
    train(second, range(3))
    _same(first, second, "two runs of one seed")
    return None


def goes_on_from_its_state(method: Method) -> str | None:
    whole, half, resumed = build(method), build(method), build(method)
    train(whole, range(6))
    train(half, range(3))
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for optim, saved in zip(resumed.optims, half.optims, strict=True):
        optim.load_state_dict(copy.deepcopy(saved.state_dict()))
    train(resumed, range(3, 6))
    _same(whole, resumed, "a run and a resumed one (state outside of parameters, buffers and optims?)")
    return None


def declared_hyper_parameters_are_used(method: Method) -> str | None:
    algorithm = build(method)
    train(algorithm, range(PROBLEM.num_steps))
    algorithm.eval()(make_batch().x)
    assert isinstance(algorithm.hp, Recording)
    unread = set(algorithm.hparams) - algorithm.hp.read - hparams.SHARED.keys()
    told = {key for key in algorithm.hparams if re.fullmatch(algorithm.quirks.get("unread", "$^"), key)}
    _require(unread == told, f"declared and never read: {sorted(unread)}; quirks: {sorted(told)}")
    return None


def hyper_parameters_are_legal(method: Method) -> str | None:
    """Every draw is plain JSON of the default's type, and a run accepts its own values back.

    What differs on a data set is of one that exists, and has a value on the others too.
    """
    places = {*registry.names("datasets"), hparams.SMALL, hparams.FOLDERS}
    strange = sorted(method.hparams_on.keys() - places)
    _require(not strange, f"hparams_on names no data set: {strange} (python -m dgbench.list datasets)")
    there = {name for declared in method.hparams_on.values() for name in declared}
    alone = sorted(there - {*method.hparams, *hparams.SHARED, *hparams.UNLABELLED})
    _require(not alone, f"in hparams_on and not in hparams: {alone}; other data sets have no value")
    for seed in range(5):
        values = hparams.resolve(method, RotatedDigits, {}, hparams_seed=seed)
        again = hparams.resolve(method, RotatedDigits, json.loads(json.dumps(values)))
        _require(values == again, f"the values of draw {seed} change when they are given back")
    return None


def is_plain_training_where_it_says_so(method: Method) -> str | None:
    """Gradients, not weights after a step: Adam divides the size of a gradient away."""
    if method.erm_when is None:
        return "declares no hyper-parameters (erm_when) under which it is plain training"
    algorithm, batch = build(method, **method.erm_when), make_batch()
    with torch.no_grad():
        for p in algorithm.classifier.parameters():
            p.mul_(SURE if p.ndim > 1 else 1.0)
    plain = copy.deepcopy(algorithm)
    torch.manual_seed(0)
    cross_entropy(plain(batch.x), batch.y).backward()
    torch.manual_seed(0)
    algorithm.update(batch)
    total = 0.0
    for (key, ours), expected in zip(algorithm.named_parameters(), plain.parameters(), strict=True):
        grad, wanted = (torch.zeros_like(ours) if p.grad is None else p.grad for p in (ours, expected))
        _close(grad, wanted, f"gradient of {key} and that of cross-entropy", atol=1e-6)
        total += float(wanted.abs().sum())
    _require(total > 0, "plain training has no gradient here")
    return None


def knows_tensors_only(method: Method) -> str | None:
    if "device" in method.quirks:
        return method.quirks["device"]
    tree = ast.parse(Path(inspect.getfile(method)).read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {f".{f.attr}()" for f in called if isinstance(f, ast.Attribute) and f.attr in TRAINERS}
    found |= {f"{f.id}()" for f in called if isinstance(f, ast.Name) and f.id in TRAINERS}
    _require(not found, f"its file calls {', '.join(sorted(found))}; devices and files are not its own")
    return None


def keeps_to_its_device(method: Method) -> str | None:
    """An update on another device than the CPU mixes them nowhere and waits for no value."""
    if "device" in method.quirks:
        return method.quirks["device"]
    algorithm, labelled = build(method).to("meta"), method.tasks != ("retrieval",)
    try:
        for step in range(3):
            algorithm.step, batch = step, make_batch(step, labelled)
            tensors = {key: value for key, value in vars(batch).items() if isinstance(value, Tensor)}
            moved: Any = {key: value.to("meta") for key, value in tensors.items()}
            with OneDevice():
                logs = algorithm.update(replace(batch, **moved))
    except (RuntimeError, NotImplementedError) as error:
        raise Broken(f"on another device than the CPU: {str(error).splitlines()[0]}") from error
    elsewhere = [key for key, value in logs.items() if value.device.type != "meta"]
    _require(not elsewhere, f"logs on the CPU: {', '.join(elsewhere)}")
    return None


def what_is_hidden_changes_nothing(method: Method) -> str | None:
    """Training ends with the same weights where hidden labels, and a target that no task shows, are noise."""
    for task in method.tasks:
        with registry.registered(method):
            clean, poisoned = (build_run(_spec(method, task), Machine()) for _ in range(2))
        _require(type(clean.algorithm) is method, f"{task}: a run trains {type(clean.algorithm)}")
        _poison(poisoned.split)
        for built in (clean, poisoned):
            state = State(built.algorithm, averaging.make((), built.algorithm), Meter())
            built.algorithm.begin_epoch(built.loader.epoch_pools(built.split))
            for step in range(2):
                update(state, built.loader, step, built.seed)
        _same(clean.algorithm, poisoned.algorithm, f"{task}: runs that differ in what is hidden alone")
    return None


def _poison(split: Split) -> None:
    """Wrong labels wherever a method may not see them; noise for images of domains that it never sees."""
    seen = {pool.domain.name for pool in split.training}
    for pool in (*split.unlabelled, *split.evaluated.values()):
        pool.domain.labels[pool.indices] = 0
        if pool.domain.name not in seen:
            pool.domain.images[:] = np.random.default_rng(0).integers(0, 256, pool.domain.images.shape)


def runs_under_its_tasks(method: Method) -> str | None:
    for task in method.tasks:
        with tempfile.TemporaryDirectory() as folder, registry.registered(method):
            record = run(_spec(method, task), Path(folder) / "run")
        scores = [v for key, v in record["metrics"].items() if key.endswith(f"/{score(task)}")]
        _require(bool(scores) and all(0 <= v <= 1 for v in scores), f"{task}: {score(task)} {scores}")
    return None


PROMISES: dict[str, Callable[[Method], str | None]] = {
    promise.__name__: promise
    for promise in (
        logs_are_finite_detached_scalars,
        every_parameter_moves,
        features_and_logits_have_their_shapes,
        evaluation_does_not_depend_on_the_rest_of_the_batch,
        same_seed_same_weights,
        goes_on_from_its_state,
        declared_hyper_parameters_are_used,
        hyper_parameters_are_legal,
        is_plain_training_where_it_says_so,
        knows_tensors_only,
        keeps_to_its_device,
        what_is_hidden_changes_nothing,
        runs_under_its_tasks,
    )
}


def _spec(method: Method, task: str) -> RunSpec:
    """A short run of the method, also of one that the registered class becomes by a hyper-parameter."""
    where: dict[str, tuple[str, ...]]
    where = {"source_envs": ("0",)} if task == "single_source" else {"test_envs": ("0",)}
    if task == "retrieval":
        where = {"test_envs": ("0", "1")}
    found = registry.find("algorithms", method.__name__).hparams  # type: ignore[attr-defined]
    base = {name: own for name, (own, _) in method.hparams.items() if name in found and found[name][0] != own}
    return RunSpec("RotatedDigits", method.__name__, task=task, steps=2, hparams=base, **where).resolved()  # type: ignore[arg-type]


def _require(kept: bool, seen: str) -> None:
    if not kept:
        raise Broken(seen)


def _same(a: Algorithm, b: Algorithm, what: str) -> None:
    left, right = a.state_dict(), b.state_dict()
    differ = [key for key in left if not torch.equal(left[key], right[key])]
    _require(not differ, f"{what} differ in {', '.join(differ[:5])}")


def _close(a: Tensor, b: Tensor, what: str, atol: float = 1e-5) -> None:
    a, b = a.detach(), b.detach()
    gap = float((a - b).abs().max())
    _require(torch.allclose(a, b, rtol=1e-4, atol=atol), f"{what} differ by up to {gap:.3g}")
