"""MIRO: Domain Generalization by Mutual-Information Regularization with Pre-trained Models (Cha et al., ECCV 2022).

arXiv 2203.10789, equations 6 and 7.
Objective as coded, f_l(x) the outputs of the stages l of the featurizer, f0_l(x) those of a frozen copy of
its initial weights, b_l one parameter per channel:

    L = CE + ld * sum_l 1/2 mean[ (f_l - f0_l)^2 / v_l + log v_l ],    v_l = softplus(b_l) + 1e-5

the mean over rows, channels and positions. The mean encoder is the identity, the variance encoder v_l does
not depend on x; v_l starts at 0.1, and b_l learns with lr_mult times the learning rate. Stages: for a ResNet
the stem (after max-pooling) and the four blocks, for any other network the features (N, F) alone.
The frozen copy stays in evaluation mode. A network without pretrained weights has its random initial weights
as the oracle; the method then only keeps the features near their start.
Source: the MIRO repository, class MIRO with stem and blocks, from memory of it.
Differs from the paper: constants of the Gaussian's log-density are left out.
"""  # noqa: E501

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import Choice
from ..losses.precision import full_precision

EPS, START = 1e-5, 0.1


class MIRO(Algorithm):
    """Keeps the features predictable for the pretrained network."""

    hparams = {"ld": (0.1, Choice((0.001, 0.01, 0.1, 1.0))), "lr_mult": (10.0, None)}
    erm_when = {"ld": 0.0}
    quirks = {"unmoved": r"oracle\..*"}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.oracle = copy.deepcopy(self.featurizer).requires_grad_(False).eval()
        with torch.no_grad():
            _, kept = staged(self.oracle, torch.zeros(1, *problem.input_shape))
        start = math.log(math.expm1(START - EPS))  # softplus(start) + EPS = START
        shapes = [(f.shape[1], *[1] * (f.ndim - 2)) for f in kept]
        self.variances = nn.ParameterList([torch.full(shape, start) for shape in shapes])

    def train(self, mode: bool = True) -> "MIRO":
        super().train(mode)
        self.oracle.eval()
        return self

    def optimizers(self) -> list[torch.optim.Optimizer]:
        network = [*self.featurizer.parameters(), *self.classifier.parameters()]
        variances = {"params": self.variances, "lr": self.hp["lr"] * self.hp["lr_mult"]}
        return [self.optimizer(network, None, variances)]

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z, kept = staged(self.featurizer, batch.x)
        with torch.no_grad():
            _, kept0 = staged(self.oracle, batch.x)
        ce = cross_entropy(self.classifier(z), batch.y)
        stages = zip(kept, kept0, self.variances, strict=True)
        penalty = torch.stack([information(f, f0, softplus(b) + EPS) for f, f0, b in stages]).sum()
        return ce + self.hp["ld"] * penalty, {"ce": ce, "penalty": penalty}


@full_precision
def information(f: Tensor, f0: Tensor, v: Tensor) -> Tensor:
    """1/2 mean[(f - f0)^2 / v + log v] of features (N, ...) and variances (...)."""
    return ((f - f0).square() / v + v.log()).mean() / 2


def staged(featurizer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The features (N, F) and the outputs of the stages."""
    net, kept = getattr(featurizer, "net", None), []
    names = ("maxpool", "layer1", "layer2", "layer3", "layer4")
    stages = [getattr(net, name) for name in names] if hasattr(net, names[-1]) else [featurizer]
    hooks = [stage.register_forward_hook(lambda _m, _x, f: kept.append(f)) for stage in stages]
    try:
        return featurizer(x), kept
    finally:
        for hook in hooks:
            hook.remove()
