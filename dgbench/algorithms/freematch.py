"""FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning (Wang et al., ICLR 2023).

arXiv 2205.07246.
Objective as coded: FixMatch's, where an image with the predicted class c is kept if its confidence reaches

    t p_c / max p

t is the running mean of the confidence of weak views (of its 0.8-quantile, ``quantile``; at most 0.95,
``clip``), p (C,) of their probabilities and h (C,) of the shares of the predicted classes, all starting at
1/C, with the current batch taken in first; plus fairness_weight times

    sum_c a_c log(b_c + 1e-12),   a ~ p / h,   b ~ q / g,   both with sum 1

over the kept rows: q their mean probability on the strong view, g the shares of the classes predicted
there (a class with none counts as 0). It is minus a cross-entropy, as the paper's L_f; 0 if no row is kept.
Source: USB, algorithms/freematch; fairness_weight from its configurations.
Differs from the paper: nothing known; the quantile and the clip are options of that code.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..algorithm import Logs, Problem
from ..hparams import Choice
from ..losses.precision import full_precision
from ..losses.pseudo_labels import confident
from .fixmatch import FixMatch, Seen, Targets


class FreeMatch(FixMatch):
    """FixMatch with thresholds that follow the confidence, overall and per class, and a fairness term."""

    hparams = {
        **{name: FixMatch.hparams[name] for name in ("unlabelled_weight", "variant")},
        "fairness_weight": (0.001, Choice((0.001, 0.01, 0.05))),
        "ema": (0.999, Choice((0.99, 0.999))),
        "quantile": (False, None),
        "clip": (False, None),
    }
    erm_when = {"unlabelled_weight": 0.0, "fairness_weight": 0.0}
    confidence: Tensor
    prediction: Tensor
    histogram: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        share = 1 / problem.num_classes
        self.register_buffer("confidence", torch.tensor(share))  # t
        self.register_buffer("prediction", torch.full((problem.num_classes,), share))  # p
        self.register_buffer("histogram", torch.full((problem.num_classes,), share))  # h

    def thresholds(self) -> Tensor:
        """Of each class: (C,)."""
        return self.confidence * self.prediction / self.prediction.max()

    def keep(self, logits: Tensor) -> Tensor:
        return confident(logits, self.thresholds()[logits.argmax(1)])[1]

    def targets(self, seen: Seen) -> Targets:
        p = seen.weak.to(self.prediction.dtype).softmax(1)
        top, labels = p.max(1)
        level = top.quantile(0.8) if self.hp["quantile"] else top.mean()
        shares = one_hot(labels, p.shape[1]).to(p.dtype).mean(0)
        for old, new in ((self.confidence, level), (self.prediction, p.mean(0)), (self.histogram, shares)):
            old.lerp_(new, 1 - self.hp["ema"])
        if self.hp["clip"]:
            self.confidence.clamp_(0, 0.95)
        return super().targets(seen)

    def objective(self, seen: Seen) -> tuple[Tensor, Logs, Targets]:
        total, logs, targets = super().objective(seen)
        fair = fairness(seen.strong, targets.weights, self.prediction, self.histogram)
        return total + self.parts * self.hp["fairness_weight"] * fair, {**logs, "fairness": fair}, targets


@full_precision
def fairness(strong: Tensor, kept: Tensor, prediction: Tensor, histogram: Tensor) -> Tensor:
    """sum_c a_c log(b_c + 1e-12): logits (M, C), kept (M,) bool, p and h (C,); 0 if none is kept."""
    q = (strong.softmax(1) * kept[:, None]).sum(0)
    g = (one_hot(strong.argmax(1), strong.shape[1]) * kept[:, None]).sum(0)
    a, b = _ratio(prediction, histogram), _ratio(q, g)
    return (a * (b + 1e-12).log()).sum().where(kept.any(), 0.0)


def _ratio(p: Tensor, h: Tensor) -> Tensor:
    """p / h, 0 where h is 0, with sum 1."""
    ratio = (p / h.clamp(min=1e-30)).where(h > 0, 0.0)
    return ratio / ratio.sum().clamp(min=1e-30)
