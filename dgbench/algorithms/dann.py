"""DANN: Domain-Adversarial Training of Neural Networks (Ganin et al., JMLR 2016).

arXiv 1505.07818, equation 9, as a game in turns.
Objective as coded, z = featurizer(x) (N, F), discriminator g with one output per domain (D), domain d_i:

    L_d = 1/N sum_i CE(g(z_i), d_i) + grad_penalty * 1/N sum_i || d/dz_i sum_j CE(g(z_j), d_j) ||^2
    L_g = 1/N sum_i CE(classifier(z_i), y_i) - lambda * L_d

An update either descends L_d by the discriminator or L_g by featurizer and classifier: with
k = d_steps_per_g_step, update t = 1, 2, ... is the discriminator's if t mod (1 + k) < k. So the very first
update is the featurizer's for k = 1 and the discriminator's for k > 1. Adam has betas (beta1, 0.9); the run's
own optimizer and learning rate (lr, weight_decay, optimizer, featurizer_lr) are not read.
``grad_penalty_form`` "softmax" is the penalty before DomainBed's correction of August 2022, which the SWAD
repository still has: the gradient of sum_ij softmax(g(z_i))_{d_j} (zero where domains have equal rows).
Source: DomainBed, algorithms.py, class AbstractDANN.
Differs from the paper: turns and two optimizers instead of a gradient-reversal layer; lambda is constant,
not ramped up; several source domains are told apart, not source and target; a gradient penalty is possible.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import Choice, LogUniform, Option, on_small_images
from ..networks.heads import mlp

DECAY, SMALL_LR = LogUniform(-6, -2), LogUniform(-4.5, -2.5)


class DANN(Algorithm):
    """A discriminator learns to tell the domains apart by the features, the featurizer to prevent it."""

    hparams = {
        "lambda": (1.0, LogUniform(-2, 2)),
        "lr_g": (5e-5, LogUniform(-5, -3.5)),
        "lr_d": (5e-5, LogUniform(-5, -3.5)),
        "weight_decay_g": (0.0, DECAY),
        "weight_decay_d": (0.0, DECAY),
        "d_steps_per_g_step": (1, LogUniform(0, 3, base=2, integer=True)),
        "grad_penalty": (0.0, LogUniform(-2, 1)),
        "grad_penalty_form": ("cross_entropy", Option(("cross_entropy", "softmax"))),
        "beta1": (0.5, Choice((0.0, 0.5))),
        "mlp_width": (256, LogUniform(6, 10, base=2, integer=True)),
        "mlp_depth": (3, Choice((3, 4, 5))),
        "mlp_dropout": (0.0, Choice((0.0, 0.1, 0.5))),
    }
    hparams_on = on_small_images(
        {"lr_g": (1e-3, SMALL_LR), "lr_d": (1e-3, SMALL_LR), "weight_decay_g": (0.0, None)}
    )
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"lambda": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        sizes = hp["mlp_width"], hp["mlp_depth"], hp["mlp_dropout"]
        self.discriminator: nn.Module = mlp(self.featurizer.n_outputs, problem.num_domains, *sizes)

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that descend L_g, and those that descend L_d."""
        named = list(self.named_parameters())
        theirs = [p for name, p in named if name.startswith(("discriminator.", "class_embeddings."))]
        return [p for _, p in named if all(p is not other for other in theirs)], theirs

    def optimizers(self) -> list[torch.optim.Optimizer]:
        (mine, theirs), hp, betas = self.players(), self.hp, (self.hp["beta1"], 0.9)
        return [
            self.adam(mine, hp["lr_g"], weight_decay=hp["weight_decay_g"], betas=betas),
            self.adam(theirs, hp["lr_d"], weight_decay=hp["weight_decay_d"], betas=betas),
        ]

    def update(self, batch: Batch) -> Logs:
        turns = self.hp["d_steps_per_g_step"]
        discriminators = (self.step + 1) % (1 + turns) < turns
        with torch.set_grad_enabled(not discriminators):  # its own turn spends nothing on the featurizer
            z = self.encode(batch.x)
        loss = loss_d = self.discriminator_loss(z, batch.y, batch.d)
        if not discriminators:
            loss = self.generator_loss(z, batch, loss_d)
        self.descend(loss, self.optims[discriminators])
        return {"loss": loss.detach(), "discriminator": loss_d.detach()}

    def encode(self, x: Tensor) -> Any:
        """What both losses start from: the features (N, F)."""
        return self.features(x)

    def generator_loss(self, z: Any, batch: Batch, loss_d: Tensor) -> Tensor:
        """L_g."""
        return cross_entropy(self.classifier(z), batch.y) - self.hp["lambda"] * loss_d

    def discriminator_loss(self, z: Any, y: Tensor, d: Tensor) -> Tensor:
        """L_d of features z (N, F), classes y (N,) and domains d (N,)."""
        h = self.discriminator_input(z, y)
        if not h.requires_grad:
            h.requires_grad_()  # in the discriminator's own turn, for the gradient penalty
        logits = self.discriminator(h)
        loss = self.domain_risk(logits, y, d)
        ce = self.hp["grad_penalty_form"] == "cross_entropy"
        if self.hp["grad_penalty"] != 0:
            total = cross_entropy(logits, d, reduction="sum") if ce else logits.softmax(1)[:, d].sum()
            (grad,) = torch.autograd.grad(total, h, create_graph=True)
            loss = loss + self.hp["grad_penalty"] * grad.square().sum(1).mean()
        return loss

    def discriminator_input(self, z: Tensor, y: Tensor) -> Tensor:
        """What the discriminator sees: the features (N, F)."""
        return z

    def domain_risk(self, logits: Tensor, y: Tensor, d: Tensor) -> Tensor:
        """Cross-entropy of the discriminator's logits (N, D)."""
        return cross_entropy(logits, d)
