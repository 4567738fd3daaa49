"""CDAN: Conditional Adversarial Domain Adaptation (Long et al., NeurIPS 2018).

arXiv 1705.10667, section 3.
Objective as coded: DANN_UDA's, with the discriminator on h = p (x) z (C F,), where p = softmax(classifier(z))
without a gradient, or for randomised_dim R > 0 on h = (R_z z) * (R_p p) / sqrt(R) with fixed normal R_z, R_p:

    L = 1/N sum_i CE(classifier(z_i), y_i) + trade_off * 1/(N + M) sum_j w_j BCE(D(R(h_j)), j is source)

entropy_conditioning (CDAN+E): w_j = 1 + exp(-H(p_j)), divided by their mean; without it w_j = 1. The gradient
of w_j is stopped with p's. trade_off 0 never looks at the target.
Source: TLL, examples cdan.py, cdan.py; its values for Office-Home are the defaults there and on Office-31.
Differs from the paper: p has no gradient; the randomised map is taken on request alone, there where C F is
above 4096; the weights have mean 1 over both domains together; the reversal's ramp (DANN_UDA).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Problem
from ..losses.adversarial import certainty_weights, domain_loss, multilinear_map, random_map
from .dann_uda import ADVERSARY, DANN_UDA


class CDAN(DANN_UDA):
    """DANN_UDA whose discriminator sees features and predictions together."""

    hparams = {**ADVERSARY, "entropy_conditioning": (False, None), "randomised_dim": (0, None)}
    of_z: Tensor
    of_p: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        if r := hp["randomised_dim"]:
            self.register_buffer("of_z", torch.randn(hp["bottleneck"], r))
            self.register_buffer("of_p", torch.randn(problem.num_classes, r))

    def discriminator_inputs(self) -> int:
        return self.hp["randomised_dim"] or self.hp["bottleneck"] * self.problem.num_classes

    def transfer(self, z: Tensor, logits: Tensor, n: int) -> Tensor:
        p = logits.detach().softmax(1)
        h = random_map(z, p, self.of_z, self.of_p) if self.hp["randomised_dim"] else multilinear_map(z, p)
        weights = certainty_weights(p) if self.hp["entropy_conditioning"] else torch.ones_like(p[:, 0])
        return domain_loss(self.judged(h), n, weights)
