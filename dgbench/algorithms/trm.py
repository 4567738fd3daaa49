"""TRM: Learning Representations that Support Robust Transfer of Predictors (Xu and Jaakkola, arXiv 2021).

arXiv 2110.09940, Algorithm 1.
Objective as coded, features z (D, B, F) of D source domains, linear heads V_e (C, F), c_e (C,), one a domain,
R_e(V, c) = mean cross-entropy of (V, c) on domain e, alpha (D, D) kept over updates, 1 off the diagonal and 0
on it at first:

    L = CE + 1/D sum_q [ sum_e alpha_qe R_e(V_q, c_q) - cos_lambda <h_q, dR_q/dV_q> ]
    alpha_qe <- alpha_qe / sum_e alpha_qe before, alpha_qe exp(groupdro_eta alpha_qe R_e(V_q, c_q)) after
    h_q = 2 v_1 + v_2 + ... + v_10,    v_k = (I - H_q)^k sum_e alpha_qe dR_e/dV_q

H_q is the Hessian of R_q in V_q; the sum ends early after the first term that takes an entry of h_q beyond
10. Before L is computed, every head takes 30 gradient steps of size 0.1 on its own domain. Gradients reach
the features alone: heads, alpha and h are constants. L = CE for the first ``iters`` updates.
Source: DomainBed, algorithms.py, class TRM, from memory of it: 30 steps of SGD, ten Neumann terms, v_1
counted twice where the series has v_0 + v_1, the limit of 10, and the classifier's weights copied to the
heads in every update when class_balanced. DomainBed keeps heads and alpha out of its checkpoints.
Differs from the paper: the heads are refined, not solved for; their biases are left out of h.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform
from ..losses.precision import full_precision


class TRM(Algorithm):
    """Each domain's head must do well on the other domains' features."""

    hparams = {
        "cos_lambda": (1e-4, LogUniform(-5, 0)),
        "iters": (200, LogUniform(0, 4, integer=True)),
        "groupdro_eta": (1e-2, LogUniform(-3, -1)),
    }
    own_classifier = True
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {}
    classifier: nn.Linear
    weights: Tensor
    biases: Tensor
    alpha: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        f, c, d = self.featurizer.n_outputs, problem.num_classes, problem.num_domains
        self.register_buffer("weights", torch.empty(d, c, f).uniform_(-(f**-0.5), f**-0.5))
        self.register_buffer("biases", torch.empty(d, c).uniform_(-(f**-0.5), f**-0.5))
        self.register_buffer("alpha", 1 - torch.eye(d))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        eta, cos_lambda = self.hp["groupdro_eta"], self.hp["cos_lambda"]
        z = self.features(batch.x)
        nll = cross_entropy(self.classifier(z), batch.y)
        if self.step < self.hp["iters"]:
            return nll, {"nll": nll}
        if self.hp["class_balanced"]:
            self.weights = self.classifier.weight.detach().expand_as(self.weights).clone()
        z, y = batch.per_domain(z), batch.per_domain(batch.y)
        self.weights, self.biases = fit(self.weights, self.biases, z.detach(), y)
        self.alpha = self.alpha / self.alpha.sum(1, keepdim=True)
        risks, slope = transfer(z, y, self.weights, self.biases, self.alpha)
        risks = self.alpha * risks
        self.alpha = self.alpha * (eta * risks.detach()).exp()
        swap = (risks.sum(1) - cos_lambda * slope).mean()
        return nll + swap, {"nll": nll, "trm": swap}


@full_precision
def fit(weights: Tensor, biases: Tensor, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """30 gradient steps of each head (D, C, F), (D, C) on its own domain's features (D, B, F)."""
    target = one_hot(y, weights.shape[1])
    for _ in range(30):
        error = ((z @ weights.mT + biases[:, None]).softmax(2) - target) / y.shape[1]  # (D, B, C)
        weights, biases = weights - 0.1 * error.mT @ z, biases - 0.1 * error.sum(1)
    return weights, biases


@full_precision
def transfer(z: Tensor, y: Tensor, weights: Tensor, biases: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Risks of head q on domain e (D, D), and <h_q, dR_q/dV_q> (D,), with gradients in z (D, B, F)."""
    d, b, c = *y.shape, weights.shape[1]
    logits = torch.einsum("qcf,ebf->qebc", weights, z) + biases[:, None, None]
    risks = cross_entropy(logits.flatten(0, 2), y.repeat(d, 1).flatten(), reduction="none")
    p = logits.softmax(3)
    error = (p - one_hot(y, c)) / b  # (q, e, B, C): dR/dlogits
    own, fixed, p = error.diagonal().movedim(2, 0), z.detach(), p.detach().diagonal().movedim(2, 0)

    v = torch.einsum("qe,qebc,ebf->qcf", alpha, error.detach(), fixed)  # v_0
    h, small = torch.zeros_like(v), torch.ones_like(v[:, :1, :1], dtype=torch.bool)
    for k in range(1, 11):
        change = fixed @ v.mT  # (D, B, C)
        v = v - (p * (change - (p * change).sum(2, keepdim=True)) / b).mT @ fixed
        h = torch.where(small, h + (2 * v if k == 1 else v), h)
        small = small & (h.abs().amax((1, 2), keepdim=True) <= 10)
    return risks.view(d, d, b).mean(2), (h * (own.mT @ z)).sum((1, 2))
