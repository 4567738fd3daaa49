"""ADRMX: Additive Disentanglement of Domain Features with Remix Loss (Demirel et al., arXiv 2023).

arXiv 2308.06624.
Objective as coded, label features u = featurizer(x), domain features v = domain_featurizer(x), invariant
features w = u - v (N, F each); c1, c2 class heads, c3 a domain head, g the discriminator, S the supervised
contrastive loss with weight 1/2 inside and across domains (``losses/supcon.py``):

    L_d = CE(g(w), d)
    L_g = CE(c1(u), y) + CE(c2(w), y) + dclf_lambda CE(c3(v), d) + cnt_lambda (S(u) + S(w))
          + rmxd_lambda/C sum_c CE(c1(w_{i_c} + v_{j_c}), y_{i_c}) - disc_lambda L_d

Turns as in DANN with k = d_steps_per_g_step: L_d descends by g, L_g by all the rest; Adam with betas
(beta1, 0.9), no weight decay. The remix sum is over classes with two rows or more; heads c have three layers.
``remix`` "same_class" draws (i_c, j_c) as two rows of class c; "domainbed" uses their positions among the
rows of class c as if they were rows of the batch, so i_c and j_c are two of the batch's first rows of any
class. The model that is evaluated is c1(u).
Source: DomainBed, algorithms.py, class ADRMX, from memory of it.
Differs from the paper: the remixed pairs, as said; they are not drawn from different domains; the
evaluated features are u, not the invariant w.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from .. import networks
from ..algorithm import Batch, Problem
from ..hparams import Choice, Option, on_small_images
from ..losses.sets import shuffled_by_label, starts
from ..losses.supcon import domain_weighted_supcon
from .dann import DANN


class ADRMX(DANN):
    """Subtracts domain features from label features, adversarially, and remixes them."""

    hparams = {
        "lr": (3e-5, Choice((2e-5, 3e-5, 4e-5, 5e-5))),
        "cnt_lambda": (1.0, Choice((1.0,))),
        "dclf_lambda": (1.0, Choice((1.0,))),
        "disc_lambda": (0.75, Choice((0.75,))),
        "rmxd_lambda": (1.0, Choice((1.0,))),
        "remix": ("domainbed", Option(("domainbed", "same_class"))),
        "d_steps_per_g_step": (2, Choice((2,))),
        "beta1": (0.5, Choice((0.5,))),
        "mlp_width": (256, Choice((256,))),
        "mlp_depth": (9, Choice((8, 9, 10))),
        "mlp_dropout": (0.0, Choice((0.0,))),
    }
    hparams_on = on_small_images({"lr": (3e-3, Choice((5e-4, 1e-3, 2e-3, 3e-3)))})
    own_classifier = True
    erm_when = None  # type: ignore[assignment]

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        n, classes = self.featurizer.n_outputs, problem.num_classes
        self.domain_featurizer = networks.featurizer(problem, hp)
        self.classifier = networks.classifier(n, classes, nonlinear=True)
        self.invariant_classifier = networks.classifier(n, classes, nonlinear=True)
        self.domain_classifier = networks.classifier(n, problem.num_domains, nonlinear=True)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        betas = (self.hp["beta1"], 0.9)
        return [self.adam(params, weight_decay=0.0, betas=betas) for params in self.players()]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.features(x), self.domain_featurizer(x)

    def discriminator_loss(self, z: tuple[Tensor, Tensor], y: Tensor, d: Tensor) -> Tensor:
        return cross_entropy(self.discriminator(z[0] - z[1]), d)

    def generator_loss(self, z: tuple[Tensor, Tensor], batch: Batch, loss_d: Tensor) -> Tensor:
        (u, v), y, d, hp = z, batch.y, batch.d, self.hp
        w = u - v
        i, j, there = self.pairs(y)
        remixed = cross_entropy(self.classifier(w[i] + v[j]), y[i], reduction="none")  # (C,)
        contrast = domain_weighted_supcon(u, y, d) + domain_weighted_supcon(w, y, d)
        return (
            cross_entropy(self.classifier(u), y)
            + cross_entropy(self.invariant_classifier(w), y)
            + hp["dclf_lambda"] * cross_entropy(self.domain_classifier(v), d)
            + hp["rmxd_lambda"] * (remixed * there).mean()
            + hp["cnt_lambda"] * contrast
            - hp["disc_lambda"] * loss_d
        )

    def pairs(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows i_c, j_c and whether class c has two rows, each (C,)."""
        shuffled = shuffled_by_label(y)
        member = one_hot(y, self.problem.num_classes)
        counts = member.sum(0)
        first = starts(counts).clamp(max=len(y) - 2)
        i, j = shuffled[first], shuffled[first + 1]
        if self.hp["remix"] == "domainbed":
            position = (member.cumsum(0).gather(1, y[:, None]) - 1).squeeze(1)  # among the rows of the class
            i, j = position[i], position[j]
        return i, j, counts >= 2
