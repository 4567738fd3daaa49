"""Transfer: Quantifying and Improving Transferability in Domain Generalization (Zhang et al., NeurIPS 2021).

arXiv 2106.03632, Algorithm 1.
Objective as coded, features z = g(x), classifier h, adversary a (a copy of h within a ball), R_e = mean
cross-entropy of source domain e. One update is:

    1. descend CE(h(z), y)
    2. descend t_lambda (max_e R_e(a) - min_e R_e(a)); only g moves
    3. a <- h, then d_steps_per_g times: ascend t_lambda (max_e R_e(a) - min_e R_e(a)) in a by SGD(lr_d), and
       a <- h + min(1, delta / |a - h|) (a - h),    |.| the Euclidean norm over all of a's parameters

Steps 1 and 2 share one Adam over g and h, or plain SGD with gda.
Source: DomainBed, algorithms.py, class Transfer, from memory of it.
gda: DomainBed hands its SGD the parameters of the adversary, so that g and h would never train; here it gets
those of g and h. weight_decay_d and beta1 are DomainBed's too: declared and drawn there, and never read.
Differs from the paper: the adversary restarts from h in every update; z in step 3 is computed once, which
matters only with dropout. In the gaps, batch norm that trains has each domain's own statistics.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import Choice, LogUniform, Uniform
from ..losses.penalties import domain_risks


class Transfer(Algorithm):
    """Features on which even an adversarial classifier near the true one has even risks."""

    hparams = {
        "t_lambda": (1.0, LogUniform(-2, 1)),
        "delta": (2.0, Uniform(0.1, 3.0)),
        "d_steps_per_g": (10, Choice((1, 2, 5))),
        "gda": (False, Choice((True,))),
        "lr_d": (1e-3, LogUniform(-4.5, -2.5)),
        "weight_decay_d": (0.0, LogUniform(-6, -2)),
        "beta1": (0.5, Choice((0.0, 0.5))),
    }
    quirks = {"unread": "weight_decay_d|beta1"}
    tasks = MULTI_SOURCE
    min_domains = 2

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.adversary = copy.deepcopy(self.classifier)

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        params = [*self.featurizer.parameters(), *self.classifier.parameters()]
        main = torch.optim.SGD(params, lr=self.hp["lr"]) if self.hp["gda"] else self.optimizer(params)
        return [main, torch.optim.SGD(self.adversary.parameters(), lr=self.hp["lr_d"])]

    def gap(self, z: Tensor, batch: Batch) -> Tensor:
        """t_lambda times the largest less the smallest risk of the adversary on features (N, F)."""
        risks = domain_risks(self.adversary(z), batch.y, batch.members)
        return self.hp["t_lambda"] * (risks.max() - risks.min())

    def project(self) -> None:
        """Pull the adversary back into the ball of radius delta around the classifier."""
        pairs = list(zip(self.adversary.parameters(), self.classifier.parameters(), strict=True))
        distance = torch.stack([(a - h).norm() for a, h in pairs]).norm()
        for a, h in pairs:
            a.copy_(h + (self.hp["delta"] / distance).clamp(max=1) * (a - h))

    def update(self, batch: Batch) -> Logs:
        main, ascent = self.optims
        nll = cross_entropy(self(batch.x), batch.y)
        self.descend(nll, main)
        gap = self.gap(self.apart(self.features, batch.x, batch.num_domains), batch)
        self.descend(gap, main)
        self.adversary.load_state_dict(self.classifier.state_dict())
        with torch.no_grad():
            z = self.apart(self.features, batch.x, batch.num_domains)
        for _ in range(self.hp["d_steps_per_g"]):
            gap = self.gap(z, batch)
            self.descend(-gap, ascent)
            with torch.no_grad():
                self.project()
        return {"loss": nll.detach(), "gap": gap.detach()}
