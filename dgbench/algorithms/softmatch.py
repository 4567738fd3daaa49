"""SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised Learning (Chen et al., ICLR 2023).

arXiv 2301.10921.
Objective as coded: FixMatch's with real weights in place of 0 and 1,

    w_i = exp( -min(m_i - mu, 0)^2 / (2 var / n_sigma^2) ),   m_i = max_c a_ic,
    a_i ~ p_i (s + 1e-6) / (r + 1e-6)  with sum 1

p_i the probabilities of the weak view, r (C,) their running mean, which the first batch starts, s uniform
or the running mean of the labelled images' probabilities (``align_to``), mu and var the running mean and
unbiased variance of m, starting at 1/C and 1. The current batch is taken in first. Labels are argmax p_i.
Source: USB, algorithms/softmatch and the hook dist_align.
Differs from the paper: nothing known.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Problem
from ..hparams import Choice, Option
from .fixmatch import FixMatch, Seen, Targets


class SoftMatch(FixMatch):
    """FixMatch with a weight that falls off below the running mean of the confidence."""

    hparams = {
        **{name: FixMatch.hparams[name] for name in ("unlabelled_weight", "variant")},
        "ema": (0.999, Choice((0.99, 0.999))),
        "n_sigma": (2, None),
        "align_to": ("uniform", Option(("uniform", "labelled"))),
    }
    started: Tensor
    prediction: Tensor
    goal: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        share = 1 / problem.num_classes
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("prediction", torch.full((problem.num_classes,), share))  # r
        self.register_buffer("goal", torch.full((problem.num_classes,), share))  # s
        self.register_buffer("mean", torch.tensor(share))
        self.register_buffer("variance", torch.tensor(1.0))

    def aligned(self, logits: Tensor) -> Tensor:
        """a: (M, C) -> (M, C)."""
        p = logits.to(self.prediction.dtype).softmax(1)
        a = p * (self.goal + 1e-6) / (self.prediction + 1e-6)
        return a / a.sum(1, keepdim=True)

    def keep(self, logits: Tensor) -> Tensor:
        """Rows of full weight."""
        return self.aligned(logits).amax(1) >= self.mean

    def targets(self, seen: Seen) -> Targets:
        rate = 1 - self.hp["ema"]
        p = seen.weak.to(self.prediction.dtype).softmax(1).mean(0)
        self.prediction.copy_(torch.where(self.started, self.prediction.lerp(p, rate), p))
        self.started.fill_(True)
        if self.hp["align_to"] == "labelled":
            self.goal.lerp_(seen.labelled.detach().to(p.dtype).softmax(1).mean(0), rate)
        top = self.aligned(seen.weak).amax(1)
        self.mean.lerp_(top.mean(), rate)
        self.variance.lerp_(top.var(correction=min(1, len(top) - 1)), rate)
        below = (top - self.mean).clamp(max=0)
        weights = (-below.square() / (2 * self.variance / self.hp["n_sigma"] ** 2)).exp()
        return Targets(seen.weak.argmax(1), weights)
