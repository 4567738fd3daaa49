"""SelfReg: Self-Supervised Contrastive Regularization for Domain Generalization (Kim et al., ICCV 2021).

arXiv 2104.09841, equations 3 to 8.
Objective as coded, for row i: logits o_i (C,), features z_i (F,), h_i = head(z_i) (F,), l ~ Beta(0.5, 0.5),
a(i) and b(i) two random rows of the same class from any domain (i itself possible), MSE the mean over all
rows and entries, s = min(CE, 1) as a constant:

    L = CE + s ( l [MSE(o, o_a) + 0.3 MSE(z, h_a)] + (1 - l) [MSE(o, o_m) + 0.3 MSE(z, h_m)] )
    o_m = l o_a + (1 - l) o_b,    h_m = l h_a + (1 - l) h_b

head: linear (F, H), batch norm, ReLU, linear (H, H), batch norm, ReLU, linear (H, F), batch norm; H is F for
2048 features, else 2 F.
Source: DomainBed, algorithms.py, class SelfReg.
Differs from the paper: the head is never trained (DomainBed makes it after the optimizer); ``train_head``
trains it. Raw features are compared with projected ones. No stochastic weight averaging (``--averaging``
adds it) and no inter-domain curriculum. Published DomainBed numbers have the untrained head.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..losses.sets import shuffled_by_label
from ..networks.heads import blocks


class SelfReg(Algorithm):
    """Pulls logits and features of random pairs of one class together."""

    hparams = {"train_head": (False, None)}
    quirks = {"unmoved": r"head\..*"}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        n = self.featurizer.n_outputs
        width = n if n == 2048 else 2 * n
        layers = blocks((n, width, width, n))[:-1]  # no ReLU at the end
        self.head: nn.Module = nn.Sequential(*layers).requires_grad_(hp["train_head"])

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.features(batch.x)
        lam = torch.distributions.Beta(torch.tensor(0.5), torch.tensor(0.5)).sample()
        partners = same_class_partners(batch.y), same_class_partners(batch.y)
        ce, penalty = self.terms(self.classifier(z), z, self.head(z), batch.y, *partners, lam)
        return ce + penalty, {"ce": ce, "penalty": penalty}

    @staticmethod
    def terms(
        o: Tensor, z: Tensor, h: Tensor, y: Tensor, a: Tensor, b: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy and regularisation of logits (N, C), features and projections (N, F); a, b (N,)."""
        o_a, h_a = o[a], h[a]
        o_m, h_m = torch.lerp(o[b], o_a, lam.to(o)), torch.lerp(h[b], h_a, lam.to(h))
        individual = mse_loss(o, o_a) + 0.3 * mse_loss(z, h_a)
        mixed = mse_loss(o, o_m) + 0.3 * mse_loss(z, h_m)
        ce = cross_entropy(o, y)
        return ce, ce.detach().clamp(max=1.0) * (lam * individual + (1 - lam) * mixed)


def same_class_partners(y: Tensor) -> Tensor:
    """A permutation (N,) of the rows that is uniform within each class."""
    shuffled = shuffled_by_label(y)
    return torch.empty_like(shuffled).scatter_(0, y.argsort(stable=True), shuffled)
