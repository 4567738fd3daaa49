"""SAM: Sharpness-Aware Minimization for Efficiently Improving Generalization (Foret et al., ICLR 2021).

arXiv 2010.01412, equations 2 and 3.
Objective as coded, w all the weights, L the batch's cross-entropy, g = grad L(w):

    the optimizer gets grad L(w + e),    e = rho g / (|g| + 1e-12)

with |g| the length of g over all weights together, e a constant and w set back before the step.
Source: the paper's equations.
Differs from the paper: Adam in place of SGD as the outer optimizer, as all methods here. Batch-norm
statistics, where not frozen, move in both passes, and dropout draws anew in the second.
"""

import torch
from torch import Tensor

from ..algorithm import Batch, Logs
from ..hparams import Choice
from .erm import ERM


class SAM(ERM):
    """Cross-entropy whose gradient is taken at the worst point nearby."""

    hparams = {"rho": (0.05, Choice((0.01, 0.02, 0.05, 0.1)))}
    erm_when = {"rho": 0.0}

    def update(self, batch: Batch) -> Logs:
        params: list[Tensor] = [p for p in self.parameters() if p.requires_grad]
        loss, _ = self.loss(batch)
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        own = [p.detach().clone() for p in params]
        with torch.no_grad():
            torch._foreach_add_(params, self.ascent(grads))
        perturbed, _ = self.loss(batch)
        for optim in self.optims:
            optim.zero_grad(set_to_none=True)
        perturbed.backward()
        with torch.no_grad():
            torch._foreach_copy_(params, own)
        self.combine(params, grads)
        for optim in self.optims:
            optim.step()
        return {"loss": loss.detach(), "perturbed": perturbed.detach()}

    def ascent(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The way e from the weights to the point where the gradient is taken."""
        return torch._foreach_mul(grads, self.hp["rho"] / (length(grads) + 1e-12))

    def combine(self, params: list[Tensor], grads: tuple[Tensor, ...]) -> None:
        """Turn the gradient there (in the parameters) and the one here into what the optimizer gets."""


def length(grads: tuple[Tensor, ...]) -> Tensor:
    """Euclidean length of all gradients together."""
    return torch.stack(torch._foreach_norm(grads)).norm()
