"""FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling (Zhang et al., NeurIPS 2021).

arXiv 2110.08263.
Objective as coded: FixMatch's, where an image with the predicted class c is kept if its confidence reaches

    threshold * beta_c / (2 - beta_c),    beta_c = n_c / max n

n_c counts the unlabelled images whose last prediction of at least ``threshold`` was c; the images that never
had one compete in the maximum (``warmup``), else they do not. A batch is judged by the beta before it, then
counted. beta starts at 0, so the first batch is kept whole. If an image is in a batch twice, the last counts.
Source: USB, algorithms/flexmatch.
Differs from the paper: nothing known; the mapping is the paper's convex one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Batch, Problem
from ..losses.pseudo_labels import confident
from ..losses.sets import starts
from .fixmatch import FixMatch, Seen, Targets


class FlexMatch(FixMatch):
    """FixMatch with a threshold per class, lower for classes that are learnt less."""

    hparams = {**FixMatch.hparams, "warmup": (True, None)}
    selected: Tensor
    beta: Tensor
    sizes: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        own = problem.labelled_sizes if self.ssdg else (0,) * len(problem.unlabelled_sizes)
        sizes = torch.tensor([problem.unlabelled_sizes, own], dtype=torch.int64)  # (2, U)
        self.register_buffer("sizes", sizes, persistent=False)
        never = torch.full((int(sizes.sum()),), -1)
        self.register_buffer("selected", never)  # last confident label of each image, -1: none yet
        self.register_buffer("beta", torch.zeros(problem.num_classes))

    def keep(self, logits: Tensor) -> Tensor:
        beta = self.beta[logits.argmax(1)]
        return confident(logits, self.hp["threshold"] * beta / (2 - beta))[1]

    def targets(self, seen: Seen) -> Targets:
        targets = super().targets(seen)
        _, sure = confident(seen.weak, self.hp["threshold"])
        self._count(self._slots(seen.batch), targets.labels, sure)
        return targets

    def _slots(self, batch: Batch) -> Tensor:
        """Place of each unlabelled row in ``selected``: (M,)."""
        d, i = batch.ud, batch.uidx
        assert d is not None and i is not None
        return starts(self.sizes.sum(0))[d] + torch.where(i < 0, self.sizes[0][d] - 1 - i, i)

    def _count(self, slots: Tensor, labels: Tensor, sure: Tensor) -> None:
        """Remember the labels of the sure rows; beta from all that is remembered."""
        again = (slots == slots[:, None]) & sure  # (M, M): j is a sure row of the same image as i
        order = torch.arange(1, len(slots) + 1, device=slots.device)
        last = (again * order).argmax(1)
        self.selected[slots] = torch.where(again.any(1), labels[last], self.selected[slots])
        counts = self.beta.new_zeros(len(self.beta) + 1)
        counts.scatter_add_(0, self.selected + 1, torch.ones_like(self.selected, dtype=counts.dtype))
        most = counts.max() if self.hp["warmup"] else counts[1:].max()
        new = counts[1:] / most.clamp(min=1)
        self.beta.copy_(torch.where(counts.max() < len(self.selected), new, self.beta))
