"""Adversarial domain adaptation with gradient reversal, as the Transfer-Learning-Library has it."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .precision import full_precision


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * grads[0], None


def reverse_gradient(x: Tensor, coefficient: float = 1.0) -> Tensor:
    """x itself; its gradient is multiplied by -coefficient (Ganin and Lempitsky, arXiv 1409.7495)."""
    reversed_: Tensor = _Reverse.apply(x, coefficient)
    return reversed_


def warm_start(step: int, high: float = 1.0, over: int = 1000) -> float:
    """The coefficient of update ``step``: high (2 / (1 + exp(-step / over)) - 1), from 0 up to high.

    Source: TLL, grl.py, with alpha = 1; DANN's paper has 10 step / number of updates in the exponent.
    """
    return high * (2 / (1 + math.exp(-step / over)) - 1)


@full_precision
def domain_loss(logits: Tensor, num_source: int, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a discriminator's logits (N,): the first ``num_source`` rows are source, 1.

    Without weights (N,), the mean of the two domains' means; with them, the weighted sum over N.
    """
    domain = (torch.arange(len(logits), device=logits.device) < num_source).to(logits.dtype)
    each = binary_cross_entropy_with_logits(logits, domain, reduction="none")
    if weights is None:
        return (each[:num_source].mean() + each[num_source:].mean()) / 2
    return (weights * each).mean()


def multilinear_map(z: Tensor, p: Tensor) -> Tensor:
    """Features z (N, F) and probabilities p (N, C) -> (N, C F), p_c z_f at c F + f (CDAN)."""
    return (p[:, :, None] * z[:, None]).flatten(1)


def random_map(z: Tensor, p: Tensor, of_z: Tensor, of_p: Tensor) -> Tensor:
    """(z R_z) * (p R_p) / sqrt(R), the map for wide features: (F, R), (C, R) -> (N, R) (CDAN)."""
    return (z @ of_z) * (p @ of_p) / math.sqrt(of_z.shape[1])


@full_precision
def certainty_weights(p: Tensor) -> Tensor:
    """1 + exp(-H) of each row of p (N, C), scaled to a mean of 1; H = -sum p log(p + 1e-5) (CDAN+E; MCC)."""
    w = 1 + (p * (p + 1e-5).log()).sum(1).exp()
    return w / w.mean()
