"""ERMPlusPlus: ERM++, An Improved Baseline for Domain Generalization (Teterwak et al., WACV 2025).

arXiv 2304.01973.
Objective as coded: cross-entropy, CE(classifier(featurizer(x)), y). Updates t = 0 ... linear_steps train the
classifier alone (Adam, linear_lr), later ones everything (Adam, lr). The evaluated model is an average a of
the weights w and of the batch-norm statistics, after update t with n = t + 1 - sma_start_iter:

    a_t = w_t                                  if n < 0
    a_t = ((n + 1) a_{t-1} + w_t) / (n + 2)    if n >= 0

so the weights of update sma_start_iter - 2 count as the first. Where batch norm is not frozen, one more
forward pass of the averaged network per update moves its statistics.
Source: DomainBed, algorithms.py, classes ERMPlusPlus and ErmPlusPlusMovingAvg.
Differs from the paper: this is its training step only. What surrounds it belongs to the run: learning rates
lowered where the validation loss stays (and then a second training on all data with the schedule found) are
not done; the initial weights (the paper's are trained with AugMix) are ``--pretrained``; batch norm that is
not frozen is ``--freeze_bn``; the long training is ``--steps``. A run of at most linear_steps + 1 updates
trains the classifier alone.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform


class ERMPlusPlus(Algorithm):
    """Classifier first, then everything; evaluated with averaged weights."""

    hparams = {
        "linear_steps": (500, None),
        "linear_lr": (5e-5, LogUniform(-5, -3.5)),
        "sma_start_iter": (600, None),
    }
    erm_when = {"linear_steps": -1}
    quirks = {"unmoved": r"(average\.)?featurizer\..*"}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        network = nn.ModuleDict({"featurizer": self.featurizer, "classifier": self.classifier})
        self.average = copy.deepcopy(network).requires_grad_(False)
        norms = [m for m in self.featurizer.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        self.refresh = bool(norms) and not problem.freeze_bn

    def features(self, x: Tensor) -> Tensor:
        return self.featurizer(x) if self.training else self.average["featurizer"](x)

    def forward(self, x: Tensor) -> Tensor:
        classifier = self.classifier if self.training else self.average["classifier"]
        return classifier(self.features(x))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        network = [*self.featurizer.parameters(), *self.classifier.parameters()]
        return [self.optimizer(self.classifier.parameters(), self.hp["linear_lr"]), self.optimizer(network)]

    def update(self, batch: Batch) -> Logs:
        everything = self.step > self.hp["linear_steps"]
        with torch.set_grad_enabled(everything):
            z = self.features(batch.x)
        loss = cross_entropy(self.classifier(z), batch.y)
        self.descend(loss, self.optims[everything])
        self.move_average()
        if self.refresh:
            with torch.no_grad():
                self.average["featurizer"](batch.x)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def move_average(self) -> None:
        """Take the weights after update ``self.step`` into the average."""
        n = self.step + 1 - self.hp["sma_start_iter"]
        weight = 1.0 if n < 0 else 1 / (n + 2)
        for part in ("featurizer", "classifier"):
            own = getattr(self, part).state_dict()
            for name, mean in self.average[part].state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(own[name], weight)
