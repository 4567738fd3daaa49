"""DebiasPL: Debiased Learning from Naturally Imbalanced Pseudo-Labels (Wang et al., CVPR 2022).

arXiv 2201.01490.
Objective as coded: FixMatch's, with labels and confidence from softmax(o(u) - debias log q), q (C,) the
running mean of softmax o(u), starting at 1/C, as it is before the batch; and with the cross-entropy of
o(u') + debias log q, where q has taken the batch in.
Source: frank-xwang/debiased-pseudo-labeling, main_DebiasPL.py (USB's port takes the mean over classes too,
which is always 1/C, and is not followed).
Differs from the paper: neither the CLD loss nor the multi-view average of pseudo-labels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Problem
from ..hparams import Choice
from ..losses.pseudo_labels import pseudo_label_loss
from .fixmatch import FixMatch, Seen, Targets


class DebiasPL(FixMatch):
    """FixMatch with logits that are corrected by how often each class is predicted."""

    hparams = {
        **FixMatch.hparams,
        "debias": (1.0, Choice((0.4, 0.5, 1.0))),
        "ema": (0.999, Choice((0.99, 0.999))),
    }
    q: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.register_buffer("q", torch.full((problem.num_classes,), 1 / problem.num_classes))

    def debiased(self, logits: Tensor) -> Tensor:
        return logits - self.hp["debias"] * self.q.log()

    def pseudo_labels(self, logits: Tensor) -> Tensor:
        return self.debiased(logits).argmax(1)

    def keep(self, logits: Tensor) -> Tensor:
        return super().keep(self.debiased(logits))

    def targets(self, seen: Seen) -> Targets:
        targets = super().targets(seen)
        self.q.lerp_(seen.weak.to(self.q.dtype).softmax(1).mean(0), 1 - self.hp["ema"])
        return targets

    def unlabelled_loss(self, seen: Seen, targets: Targets) -> Tensor:
        return pseudo_label_loss(seen.strong + self.hp["debias"] * self.q.log(), *targets)
