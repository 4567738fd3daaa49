"""Gradients of each domain's risk, and the variance of a linear classifier's per-sample gradients.

Shapes: D domains, B rows a domain, C classes, F features.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..algorithm import Batch
from .precision import full_precision


def separate_risks(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
    """The cross-entropy of each domain, by a forward pass of its own.

    Its graph holds that domain's rows only: D backward passes cost as much as one over the whole batch.
    """
    for x, y in zip(batch.per_domain(batch.x), batch.per_domain(batch.y), strict=True):
        yield cross_entropy(model(x), y)


def by_domain(
    risks: Iterable[Tensor], params: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The risks (D,), and for each parameter its gradients (D, *shape), a row for each risk."""
    seen, rows = [], []
    for risk in risks:
        rows.append(torch.autograd.grad(risk, params, create_graph=create_graph))
        seen.append(risk if create_graph else risk.detach())
    return torch.stack(seen), [torch.stack(grads) for grads in zip(*rows, strict=True)]


@full_precision
def classifier_gradient_variance(z: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Biased variance over samples of the gradients of CE by a linear classifier's weight and bias.

    z (..., B, F), logits (..., B, C), y (..., B) -> (..., C * F + C): the weight row-major, then the bias.
    Sample i's gradients are outer(r_i, z_i) and r_i, with r_i = softmax(logits_i) - onehot(y_i), so the
    moments are products of matrices and no (B, C, F) tensor is made:
    var = (r^2)^T z^2 / B - (r^T z / B)^2. Differentiable.
    """
    r, rows = logits.softmax(-1) - one_hot(y, logits.shape[-1]), z.shape[-2]
    weight = r.square().mT @ z.square() / rows - (r.mT @ z / rows).square()
    bias = r.var(-2, correction=0)
    return torch.cat([weight.flatten(-2), bias], -1)
