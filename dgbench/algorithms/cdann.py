"""CDANN: Deep Domain Generalization via Conditional Invariant Adversarial Networks (Li et al., ECCV 2018).

No arXiv id.
Objective as coded: DANN's, with the features and a learned embedding E of the class added before the
discriminator, and every class weighted alike. z_i features (F,), E (C, F), n_c rows of class c in the batch,
K = the largest class present + 1:

    L_d = sum_i w_i CE(g(z_i + E[y_i]), d_i) + grad_penalty * (...as in DANN),    w_i = 1 / (n_{y_i} K)

E is trained with the discriminator. Turns, optimizers and the featurizer's loss are DANN's.
Source: DomainBed, algorithms.py, class AbstractDANN with conditional and class_balance on.
Differs from the paper: one discriminator that is told the class, not one per class beside a common one; no
gradient reversal; K counts classes up to the largest present, so the weights sum to less than one where a
class below it is missing from the batch.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..algorithm import Problem
from .dann import DANN


class CDANN(DANN):
    """DANN whose discriminator is told the class."""

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.class_embeddings = nn.Embedding(problem.num_classes, self.featurizer.n_outputs)

    def discriminator_input(self, z: Tensor, y: Tensor) -> Tensor:
        return z + self.class_embeddings(y)

    def domain_risk(self, logits: Tensor, y: Tensor, d: Tensor) -> Tensor:
        counts = one_hot(y, self.problem.num_classes).sum(0)  # (C,)
        weights = 1.0 / (counts[y] * (y.max() + 1)).float()
        return (weights * cross_entropy(logits, d, reduction="none")).sum()
