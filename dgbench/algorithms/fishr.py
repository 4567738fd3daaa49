"""Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization (Rame et al., ICML 2022).

arXiv 2109.02934, section 3.
Objective as coded, over D domains, with v_d (P,) the biased variance over domain d's rows of the gradients of
CE(o_i, y_i) by the P weights and biases of the linear classifier, at update t = 0, 1, ... (m_d = 0 before):

    m_d <- ema * m_d + (1 - ema) * v_d,    V_d = m_d / (1 - ema)
    L = 1/N sum_i CE(o_i, y_i) + w * 1/D sum_d 1/P sum_k (V_dk - mean_e V_ek)^2

w = 0 while t < penalty_anneal_iters, then ``lambda``; Adam is made anew at t = penalty_anneal_iters.
Gradients reach features and classifier through v_d of this update alone.
``fishr_average`` "domainbed" is the above, in which V_d = v_d + ema / (1 - ema) * (its old m_d) grows towards
v_d / (1 - ema), 20 times the variance; "normalized" has the value V_d = m_d / (1 - ema^(t + 1)), a true
average, with the gradient of v_d.
Source: DomainBed, algorithms.py, class Fishr, which takes per-sample gradients from BackPACK; here they are
in closed form (``losses/gradients.py``).
Differs from the paper: the penalty is a mean over the entries; the average over updates is as described.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform, Option, Uniform
from ..losses.gradients import classifier_gradient_variance


class Fishr(Algorithm):
    """Cross-entropy, and domains' variances of the classifier's gradients pulled to their mean."""

    hparams = {
        "lambda": (1000.0, LogUniform(1, 4)),
        "penalty_anneal_iters": (1500, Uniform(0, 5000, integer=True)),
        "ema": (0.95, Uniform(0.9, 0.99)),
        "fishr_average": ("domainbed", Option(("domainbed", "normalized"))),
    }
    erm_when = {"lambda": 0.0, "penalty_anneal_iters": 0}
    own_classifier = True
    tasks = MULTI_SOURCE
    min_domains = 2

    average: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        size = (self.featurizer.n_outputs + 1) * problem.num_classes
        self.register_buffer("average", torch.zeros(problem.num_domains, size))  # m

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        weight = self.annealed("lambda", "penalty_anneal_iters")
        z = self.features(batch.x)
        logits = self.classifier(z)
        ce = cross_entropy(logits, batch.y)
        with torch.set_grad_enabled(weight != 0):
            v = classifier_gradient_variance(*map(batch.per_domain, (z, logits, batch.y)))  # (D, P)
            v = self._averaged(v)
            penalty = (v - v.mean(0)).square().mean()
        return ce + weight * penalty, {"ce": ce, "penalty": penalty}

    def _averaged(self, v: Tensor) -> Tensor:
        """V (D, P), and the buffer moved on."""
        ema = self.hp["ema"]
        average = ema * self.average + (1 - ema) * v
        self.average.copy_(average.detach())
        if self.hp["fishr_average"] == "domainbed":
            return average / (1 - ema)
        return self.average / (1 - ema ** (self.step + 1)) + v - v.detach()
