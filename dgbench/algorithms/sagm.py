"""SAGM: Sharpness-Aware Gradient Matching for Domain Generalization (Wang et al., CVPR 2023).

arXiv 2303.10353.
Objective as coded, w all the weights, L the batch's cross-entropy, g = grad L(w), alpha and rho constants:

    L(w) + L(w + rho g / (|g| + 1e-12) - alpha g)

and the optimizer gets g + grad L(w + rho g / (|g| + 1e-12) - alpha g), with g constant in the second.
Source: the paper's objective; the authors' code was not consulted.
Differs from the paper: as SAM does; rho and alpha are constant over the run.
"""

import torch
from torch import Tensor

from ..hparams import Choice
from .sam import SAM, length


class SAGM(SAM):
    """Cross-entropy here and at the worst point nearby, with their gradients aligned."""

    hparams = {
        "rho": (0.05, Choice((0.01, 0.02, 0.05, 0.1))),
        "alpha": (0.001, Choice((0.0005, 0.001, 0.002))),
    }
    erm_when = None  # type: ignore[assignment]

    def ascent(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch._foreach_mul(grads, self.hp["rho"] / (length(grads) + 1e-12) - self.hp["alpha"])

    def combine(self, params: list[Tensor], grads: tuple[Tensor, ...]) -> None:
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad if p.grad is None else p.grad + grad
