"""Methods with linear modules swapped in, in float64: what the golden vectors were made with."""

from typing import Any

import torch
from golden_vectors import Case
from torch import Tensor, nn

from dgbench import hparams, registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.dataset import Dataset


def build(
    name: str, domains: int = 3, classes: int = 4, backbone: str = "digits_cnn", size: int = 8, **chosen: Any
) -> Any:
    """A method on images of ``size`` pixels, in training mode."""
    method = registry.find("algorithms", name)
    assert issubclass(method, Algorithm)
    problem = Problem((1, size, size), classes, domains, 100, 10, (50,) * domains, (50,) * domains, backbone)
    torch.manual_seed(0)
    return method(problem, hparams.resolve(method, Dataset, chosen)).train()


def linear(weight: Any, bias: Any = None) -> nn.Linear:
    """A linear layer in float64 with these weights (out, in) and this bias (out,)."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(torch.as_tensor(bias))
    return layer


def on_linear(name: str, case: Case, domains: int, **chosen: Any) -> Any:
    """The method whose features are its inputs and whose classifier is the case's ``W, b``."""
    algorithm = build(name, domains, len(case.inputs["b"]), **chosen)
    algorithm.featurizer = nn.Identity()
    algorithm.classifier = linear(case.inputs["W"], case.inputs["b"])
    return algorithm


class Ragged(list):
    """Per-domain tensors of different sizes: what the methods do with (D, B, ...)."""

    def mean(self, dim: int) -> Tensor:
        assert dim == 1
        return torch.stack([values.mean(0) for values in self])


class RaggedBatch(Batch):
    """A batch whose domains may have different numbers of rows, as the vectors' do."""

    def per_domain(self, values: Tensor) -> Any:
        sizes = torch.bincount(self.d).tolist()
        return super().per_domain(values) if len(set(sizes)) == 1 else Ragged(values.split(sizes))


def batch_of(case: Case, prefix: str = "") -> RaggedBatch:
    """The inputs ``<prefix>x<e>, <prefix>y<e>``; x wants a gradient."""
    xs = [case.x(name) for name in case.domains(f"{prefix}x")]
    ys = [case.x(name) for name in case.domains(f"{prefix}y")]
    return batch_from(xs, ys)


def batch_from(xs: list[Tensor], ys: list[Tensor]) -> RaggedBatch:
    d = torch.arange(len(xs)).repeat_interleave(torch.tensor([len(y) for y in ys]))
    x = torch.cat(xs).requires_grad_()
    return RaggedBatch(x, torch.cat(ys), d, torch.zeros_like(d), len(xs))


def image_batch(domains: int = 3, rows: int = 6, classes: int = 4, seed: int = 0, **kwargs: Any) -> Batch:
    """Random images 8 x 8 with labels, domain-major."""
    r = torch.Generator().manual_seed(seed)
    n = domains * rows
    x = torch.rand(n, 1, 8, 8, generator=r, **kwargs)
    y = torch.randint(classes, (n,), generator=r)
    d = torch.arange(domains).repeat_interleave(rows)
    return Batch(x, y, d, torch.zeros_like(d), domains)


class Draws:
    """Stands for a function that draws: gives the values in order, whatever it is asked for."""

    def __init__(self, *values: Any) -> None:
        self.values = [torch.as_tensor(value) for value in values]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.values.pop(0)
