"""SagNet: Reducing Domain Gap by Reducing Style Bias (Nam et al., CVPR 2021).

arXiv 1910.11645, section 3.
Objective as coded, with f the featurizer, c the classifier, s a style network, and SR, CR the style and
content randomisation of ``networks/style.py`` with random partners in the batch and alpha_i ~ U(0, 1):

    L_c   = mean CE(c(SR(f(x))), y)                     trains f and c
    L_s   = mean CE(s(CR(f(x))), y)                     trains s
    L_adv = sag_w_adv * mean over rows and classes of -log softmax(s(CR(f(x))))        trains f

``sag_variant`` "domainbed": f is the whole backbone, c and s are linear, and statistics are over the features
of a sample. The three steps follow each other, each with an Adam of its own; the features are computed again
after the first.
"official": statistics over space; f is cut before its third stage, c is the rest and the classifier, s a copy
of the rest and a classifier of its own. L_adv trains only the affine parameters of f's normalisation layers
(all of f where it has none), its gradient clipped to norm 0.1, with log(softmax + 1e-5). All gradients are
taken before the steps.
Source: DomainBed, algorithms.py, class SagNet; official code, modules/sag_resnet.py and train.py.
Differs from the paper: "domainbed" randomises pooled features and trains all of f against s. "official": the
adversarial gradient there passes through the style network after its step, here before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .. import networks
from ..algorithm import Algorithm, Batch, Logs, Problem
from ..errors import UsageError
from ..hparams import LogUniform, Option
from ..networks.layers import Tail
from ..networks.style import randomize_content, randomize_style

CUT, CLIP = 3, 0.1


class SagNet(Algorithm):
    """Content that is right under any style, features that a style network cannot use."""

    hparams = {
        "sag_w_adv": (0.1, LogUniform(-2, 1)),
        "sag_variant": ("domainbed", Option(("domainbed", "official"))),
    }

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        if problem.frozen:
            raise UsageError("SagNet's adversary trains the backbone; leave out --frozen")
        super().__init__(problem, hp)
        n, classes = self.featurizer.n_outputs, problem.num_classes
        self.style = networks.classifier(n, classes, hp["nonlinear_classifier"])
        if hp["sag_variant"] == "official":
            self.style = nn.Sequential(Tail(self.featurizer, CUT), self.style)

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        f, c, s = (list(m.parameters()) for m in (self.featurizer, self.classifier, self.style))
        if self.hp["sag_variant"] == "domainbed":
            return [self.optimizer(f), self.optimizer(c), self.optimizer(s)]
        front = nn.Sequential(*self.featurizer.stages()[:CUT])
        norms = [m for m in front.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
        affine = [p for m in norms for p in m.parameters()] or front.parameters()
        return [self.optimizer(s), self.optimizer(affine), self.optimizer([*f, *c])]

    def update(self, batch: Batch) -> Logs:
        official = self.hp["sag_variant"] == "official"
        losses = (self._official if official else self._domainbed)(batch.x, batch.y)
        return {name: v.detach() for name, v in zip(("loss", "style", "adversary"), losses, strict=True)}

    def _domainbed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, c, s = self.optims
        loss = cross_entropy(self.classifier(self._restyled(self.features(x))), y)
        self.descend(loss, f, c)
        z = self.features(x)
        loss_s = cross_entropy(self.style(self._refilled(z.detach())), y)
        self.descend(loss_s, s)
        loss_adv = self.adversarial_loss(self.style(self._refilled(z)))
        self.descend(loss_adv, f)
        return loss, loss_s, loss_adv

    def _official(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = self.featurizer.stages()
        maps = nn.Sequential(*stages[:CUT])(x)
        loss = cross_entropy(nn.Sequential(*stages[CUT:], self.classifier)(self._restyled(maps)), y)
        logits = self.style(self._refilled(maps))
        loss_s, loss_adv = cross_entropy(logits, y), self.adversarial_loss(logits)
        params = [[p for group in optim.param_groups for p in group["params"]] for optim in self.optims]
        grads = [
            torch.autograd.grad(each, own, retain_graph=True)
            for each, own in zip((loss_s, loss_adv, loss), params, strict=True)
        ]
        for i, optim in enumerate(self.optims):  # the style network, the adversary, the rest
            for p, g in zip(params[i], grads[i], strict=True):
                p.grad = g
            if i == 1:
                nn.utils.clip_grad_norm_(params[i], CLIP)
            optim.step()
        return loss, loss_s, loss_adv

    def adversarial_loss(self, logits: Tensor) -> Tensor:
        """The style network's distance from knowing nothing, L_adv; logits (N, C)."""
        official = self.hp["sag_variant"] == "official"
        log_p = (logits.softmax(1) + 1e-5).log() if official else logits.log_softmax(1)
        return -self.hp["sag_w_adv"] * log_p.mean()

    @staticmethod
    def _restyled(z: Tensor) -> Tensor:
        partner = torch.randperm(len(z), device=z.device)
        return randomize_style(z, partner, torch.rand(len(z), dtype=z.dtype, device=z.device))

    @staticmethod
    def _refilled(z: Tensor) -> Tensor:
        return randomize_content(z, torch.randperm(len(z), device=z.device))
