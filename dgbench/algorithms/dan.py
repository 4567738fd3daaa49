"""DAN: Learning Transferable Features with Deep Adaptation Networks (Long et al., ICML 2015).

arXiv 1502.02791, equation 4.
Objective as coded, source rows x (N), target rows u (M) in one forward pass, z = bottleneck(featurizer(.))
(N + M, F), o = classifier(z):

    L = 1/N sum_i CE(o_i, y_i) + trade_off * MK-MMD^2(z of the source, z of the target)

MK-MMD^2 is ``losses.alignment.multi_kernel_mmd``: five Gaussian kernels, in linear or quadratic time.
trade_off 0 never looks at the target. bottleneck: linear, ReLU, dropout.
Source: TLL, examples dan.py; its values for Office-Home are the defaults there and on Office-31.
Differs from the paper: one layer, the bottleneck, instead of the last three; the sum of five kernels of
fixed relative widths instead of learnt weights.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import networks
from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import Declared, LogUniform, Option, on_office
from ..losses.alignment import ESTIMATORS, multi_kernel_mmd
from ..networks.heads import bottleneck

TRANSFER: Declared = {"trade_off": (1.0, LogUniform(-1, 1)), "bottleneck": (256, None)}


class DAN(Algorithm):
    """Source risk, and the distance of the domains' features; others change the transfer term."""

    hparams = {**TRANSFER, "mmd_estimator": ("linear", Option(ESTIMATORS))}
    hparams_on = on_office(lr=3e-3, lr_gamma=3e-4, weight_decay=5e-4)
    tasks = ("domain_adaptation",)
    needs = ("unlabelled",)
    erm_when = {"trade_off": 0.0}
    batch_norm: ClassVar[bool] = False  # in the bottleneck

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        width = hp["bottleneck"]
        self.bottleneck = bottleneck(self.featurizer.n_outputs, width, self.batch_norm)
        self.classifier = networks.classifier(width, problem.num_classes, hp["nonlinear_classifier"])

    def features(self, x: Tensor) -> Tensor:
        return self.bottleneck(self.featurizer(x))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        if self.hp["trade_off"] == 0:
            return cross_entropy(self(batch.x), batch.y), {}
        assert batch.u is not None
        n = len(batch.x)
        z = self.features(torch.cat((batch.x, batch.u)))
        logits = self.classifier(z)
        ce, transfer = cross_entropy(logits[:n], batch.y), self.transfer(z, logits, n)
        return ce + self.hp["trade_off"] * transfer, {"ce": ce, "transfer": transfer}

    def transfer(self, z: Tensor, logits: Tensor, n: int) -> Tensor:
        """The term that adapts: features (N + M, F) and logits (N + M, C), the first n rows the source's."""
        return multi_kernel_mmd(z[:n], z[n:], self.hp["mmd_estimator"])
