"""Semi-supervised methods on 8 x 8 images, and what their networks would give, from recorded logits."""

from typing import Any

import torch
from torch import Tensor

from dgbench import hparams, registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.algorithms.fixmatch import Seen
from dgbench.dataset import Dataset

SHAPE = (1, 8, 8)


def build(
    name: str,
    domains: int = 3,
    classes: int = 4,
    pool: int = 50,
    shape: tuple[int, int, int] = SHAPE,
    **chosen: Any,
) -> Any:
    """A method in training mode, in float64; ``pool`` images in each labelled and unlabelled pool."""
    method = registry.find("algorithms", name)
    assert issubclass(method, Algorithm)
    method, sizes = method.specialised(chosen), (pool,) * domains
    problem = Problem(shape, classes, domains, 100, 10, sizes, sizes, "digits_cnn")
    torch.manual_seed(0)
    return method(problem, hparams.resolve(method, Dataset, chosen)).double().train()


def batch(domains: int = 3, rows: int = 4, ratio: int = 2, shape: tuple[int, int, int] = SHAPE) -> Batch:
    """Random images, ``rows`` labelled and ``ratio`` times as many unlabelled ones of each domain."""
    r = torch.Generator().manual_seed(0)
    n, m = domains * rows, domains * rows * ratio

    def images(count: int) -> Tensor:
        return torch.rand(count, *shape, generator=r, dtype=torch.float64)

    def domain(count: int) -> Tensor:
        return torch.arange(domains).repeat_interleave(count)

    def index(count: int) -> Tensor:
        return torch.randint(50, (count,), generator=r)

    y = torch.randint(4, (n,), generator=r)
    labelled = images(n), y, domain(rows), index(n), domains
    return Batch(*labelled, images(n), images(m), images(m), domain(rows * ratio), index(m))


def seen(
    weak: Tensor,
    strong: Tensor,
    labelled: Tensor | None = None,
    labelled_strong: Tensor | None = None,
    y: Tensor | None = None,
    idx: Tensor | None = None,
) -> Seen:
    """What a method's passes would give for one domain: logits (M, C) of u and u2, (N, C) of x and x2."""
    labelled = torch.zeros_like(weak) if labelled is None else labelled
    y = torch.zeros(len(labelled), dtype=torch.int64) if y is None else y
    idx = torch.arange(len(weak)) if idx is None else idx
    zeros = torch.zeros_like(y)
    rows = Batch(torch.empty(0), y, zeros, zeros, 1, ud=torch.zeros_like(idx), uidx=idx)
    nothing = torch.empty(0)
    return Seen(rows, nothing, nothing, labelled, weak, strong, labelled_strong)
