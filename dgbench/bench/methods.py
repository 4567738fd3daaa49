"""Every method's update against ERM's on the MNIST CNN, beside the arithmetic that its equations demand."""

from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .. import hparams, registry
from ..algorithm import Algorithm, Batch, Problem
from ..errors import UsageError
from .ratio import Ratio, alternate

DOMAINS, ROWS, POOL = 5, 16, 160


def methods(turns: int) -> list[Ratio]:
    """The time, beside how many times the multiplications and additions of ERM's update a method's has."""
    names = [name for name in registry.names("algorithms") if name != "Untrained"]
    ratios = []
    for name in names:
        try:
            ratios.append(_one(name, max(1, turns // 6)))
        except UsageError as error:
            print(f"left out: {name} ({error})")
    return ratios


def _one(name: str, turns: int) -> Ratio:
    ours, erm = _made(name), _made("ERM")
    batch, labelled = _batch(), _batch()
    pool = batch.x.repeat(POOL // len(batch.x), 1, 1, 1).chunk(2)  # yields batches of images
    pools = [pool] * 2 * DOMAINS  # labelled and unlabelled ones
    if ours.tasks == ("retrieval",):
        none = {field: getattr(batch, field)[:0] for field in ("x", "y", "d", "idx", "x2")}
        batch, pools = replace(batch, **none), pools[DOMAINS:]
    ours.begin_epoch(pools)
    times = _operations(ours, batch) / _operations(erm, labelled)
    title = f"{name}'s update / ERM's, MNIST CNN, {DOMAINS} x {ROWS}: {times:.2f} times the arithmetic"
    return alternate(title, lambda: ours.update(batch), lambda: erm.update(labelled), turns)


def _made(name: str) -> Algorithm:
    method: Any = registry.find("algorithms", name)
    data: Any = registry.find("datasets", "RotatedMNIST")
    sizes = (POOL,) * DOMAINS
    problem = Problem(data.input_shape, data.num_classes, DOMAINS, 1000, 100, sizes, sizes, "mnist_cnn")
    torch.manual_seed(0)
    algorithm: Algorithm = method(problem, hparams.resolve(method, data, {}))
    algorithm.to(memory_format=torch.channels_last).train()
    algorithm.step = problem.num_steps // 2  # past what methods wait for
    return algorithm


def _batch() -> Batch:
    """Every field filled, as many unlabelled rows as labelled ones."""
    d = torch.arange(DOMAINS).repeat_interleave(ROWS)
    x, x2, u, u2 = (torch.rand(len(d), 1, 28, 28).to(memory_format=torch.channels_last) for _ in range(4))
    y = torch.randint(10, d.shape)
    idx, uidx = (torch.randint(POOL, d.shape) for _ in range(2))
    return Batch(x, y, d, idx, DOMAINS, x2, u, u2, d, uidx, DOMAINS)


def _operations(algorithm: Algorithm, batch: Batch) -> int:
    """Multiplications and additions of matrix products and convolutions in one update."""
    with _Counter() as counter:
        algorithm.update(batch)
    return counter.total


class _Counter(TorchDispatchMode):
    """Torch's FlopCounterMode without its hooks on modules, which ``autograd.grad`` inside a loss refuses."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out
