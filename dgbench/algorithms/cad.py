"""CAD: Optimal Representations for Covariate Shift (Ruan et al., ICLR 2022).

arXiv 2201.00057, the contrastive adversarial domain bottleneck.
Objective as coded, z (N, F) features (through a head if ``is_project``, of unit length if
``is_normalized``), s_ij = z_i . z_j / tau, d_i domains, y_i classes, the row itself apart:

    L = CE + lmbda * tau / 0.07 * mean_i B_i
    B_i = -log sum_{j: d_j != d_i} p_ij,    p_ij = exp(s_ij) / sum_{k != i} exp(s_ik)

over the rows i that share their class with another row and have a row of another domain. With
``is_flipped`` false it is B_i = +log sum_{j: d_j = d_i} p_ij, where j = i takes part with s_ii = 0.
Source: DomainBed, algorithms.py, class AbstractCAD (``is_flipped`` false from memory of it).
Differs from the paper: the features are not normalised and not projected by default; the form that is
minimised by raising the probability of other domains, which the paper finds more stable, is the default;
only rows with a partner of their class count, though this bottleneck does not use the class; no
self-supervised or pretrained objective beside it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import Choice
from ..losses.precision import full_precision
from ..networks.heads import projector

BASE_TEMPERATURE = 0.07


class CAD(Algorithm):
    """Makes the nearest rows of a row come from other domains."""

    hparams = {
        "lmbda": (0.1, Choice((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2))),
        "temperature": (0.1, Choice((0.05, 0.1))),
        "is_normalized": (False, None),
        "is_project": (False, None),
        "is_flipped": (True, None),
    }
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"lmbda": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.project = projector(self.featurizer.n_outputs, 128) if hp["is_project"] else None

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.features(batch.x)
        ce, penalty = cross_entropy(self.classifier(z), batch.y), self.bottleneck(z, batch.y, batch.d)
        return ce + self.hp["lmbda"] * penalty, {"ce": ce, "penalty": penalty}

    @full_precision
    def bottleneck(self, z: Tensor, y: Tensor, d: Tensor) -> Tensor:
        """The mean of tau / 0.07 B_i of features z (N, F), classes y (N,) and domains d (N,)."""
        z = z if self.project is None else self.project(z)
        z = normalize(z, dim=1) if self.hp["is_normalized"] else z
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        s = (z @ z.T / self.hp["temperature"]).masked_fill(itself, 0.0)  # (N, N)
        top, bottom, rows = self.masks((y == y[:, None]) & ~itself, d == d[:, None], ~itself)
        some = rows[:, None]  # a row without any partner would be -inf, with a gradient that is not a number
        log_p = logsumexp(s, top | ~some) - logsumexp(s, bottom | ~some)
        sign = -1.0 if self.hp["is_flipped"] else 1.0
        scale = sign * self.hp["temperature"] / BASE_TEMPERATURE
        return scale * log_p.where(rows, 0.0).sum() / rows.sum().clamp(min=1)

    def masks(self, same_y: Tensor, same_d: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of pairs (N, N): those above and below the fraction bar; and the rows (N,) that count."""
        top = ~same_d if self.hp["is_flipped"] else same_d
        return top, others, same_y.any(1) & top.any(1)


def logsumexp(s: Tensor, mask: Tensor) -> Tensor:
    """Log of the sum of exp(s) over the masked columns: (N, N) -> (N,)."""
    return s.masked_fill(~mask, -torch.inf).logsumexp(1)
