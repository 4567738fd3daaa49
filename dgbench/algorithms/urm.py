"""URM: Uniformly Distributed Feature Representations for Fair and Robust Learning (Krishnamachari et al., TMLR 2024).

No arXiv id (OpenReview PgLbS5yp8n).
Objective as coded, z = a(featurizer(x)) (N, F) with a the activation ``urm_generator_output``, noise n (N, F)
uniform on a's range ([-1, 1] for tanh, [0, 1] for relu and sigmoid), g a discriminator with one logit,
BCE the binary cross-entropy of a logit, lambda = urm_adv_lambda:

    L   = CE(classifier(z), y) + lambda BCE(g(z), 1)
    L_d = BCE(g(n), 1) + lambda BCE(g(z), 0)

Every update descends L by featurizer and classifier, then L_d (with the z from before) by g. With label
smoothing s the targets 1 and 0 of L_d are drawn from [1 - s, 1] and [0, s].
g: linear (F, 100), leaky ReLU, ``urm_discriminator_hidden_layers`` times the same (100, 100), then
linear (100, 1).
Source: DomainBed, algorithms.py, class URM, from memory of it.
The hyper-parameter urm is DomainBed's too: declared and drawn there, and never read.
Differs from the paper: lambda weighs the features' part of L_d too; with relu the features reach beyond the
noise's range.
"""  # noqa: E501

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..errors import unknown
from ..hparams import Choice, LogUniform, Option, Uniform, on_small_images

OUTPUTS = {"tanh": (torch.tanh, -1.0), "relu": (torch.relu, 0.0), "sigmoid": (torch.sigmoid, 0.0)}


class URM(Algorithm):
    """A discriminator tells features from uniform noise, the featurizer makes them alike."""

    hparams = {
        "urm": ("adversarial", Choice(("adversarial",))),
        "urm_adv_lambda": (0.1, Uniform(0.0, 0.2)),
        "urm_discriminator_label_smoothing": (0.0, Uniform(0.0, 0.0)),
        "urm_discriminator_optimizer": ("adam", Option(("adam", "sgd"))),
        "urm_discriminator_hidden_layers": (1, Choice((1, 2, 3))),
        "urm_generator_output": ("tanh", Choice(("tanh", "relu"))),
        "urm_discriminator_lr": (5e-5, LogUniform(-6, -4.5)),
    }
    hparams_on = on_small_images({"urm_discriminator_lr": (1e-3, LogUniform(-5.5, -3.5))})
    quirks = {"unread": "urm"}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        if hp["urm_generator_output"] not in OUTPUTS:
            raise unknown("urm_generator_output", hp["urm_generator_output"], OUTPUTS)
        self.activation, self.low = OUTPUTS[hp["urm_generator_output"]]
        layers: list[nn.Module] = [nn.Linear(self.featurizer.n_outputs, 100), nn.LeakyReLU()]
        for _ in range(hp["urm_discriminator_hidden_layers"]):
            layers += [nn.Linear(100, 100), nn.LeakyReLU()]
        self.discriminator: nn.Module = nn.Sequential(*layers, nn.Linear(100, 1))

    def features(self, x: Tensor) -> Tensor:
        return self.activation(self.featurizer(x))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        hp, theirs = self.hp, self.discriminator.parameters()
        settings = {"lr": hp["urm_discriminator_lr"], "weight_decay": hp["weight_decay"]}
        sgd = hp["urm_discriminator_optimizer"] == "sgd"
        return [
            self.optimizer([*self.featurizer.parameters(), *self.classifier.parameters()]),
            torch.optim.SGD(theirs, momentum=0.9, **settings) if sgd else self.adam(theirs, **settings),
        ]

    def update(self, batch: Batch) -> Logs:
        z = self.features(batch.x)
        ce, fooled = cross_entropy(self.classifier(z), batch.y), self.judged(z, 1.0, 1.0)
        loss = ce + self.hp["urm_adv_lambda"] * fooled
        self.descend(loss, self.optims[0])
        noise = self.low + (1 - self.low) * torch.rand_like(z)
        loss_d = self.discriminator_loss(z.detach(), noise)
        self.descend(loss_d, self.optims[1])
        return {"loss": loss.detach(), "ce": ce.detach(), "discriminator": loss_d.detach()}

    def discriminator_loss(self, z: Tensor, noise: Tensor) -> Tensor:
        """L_d of features and noise, (N, F) each."""
        smooth = self.hp["urm_discriminator_label_smoothing"]
        fake = self.judged(z, 0.0, smooth)
        return self.judged(noise, 1.0 - smooth, 1.0) + self.hp["urm_adv_lambda"] * fake

    def judged(self, rows: Tensor, low: float, high: float) -> Tensor:
        """BCE of the discriminator's logits for rows (N, F), targets uniform on [low, high]."""
        logits = self.discriminator(rows).squeeze(1)
        targets = torch.full_like(logits, low)
        return bce(logits, targets if low == high else targets.uniform_(low, high))
