"""ARM: Adaptive Risk Minimization, Learning to Adapt to Domain Shift (Zhang et al., NeurIPS 2021).

arXiv 2007.02931, Algorithm 1 with contextual meta-learning (ARM-CML).
Objective as coded: the rows of a batch are cut into groups of K = batch_size consecutive rows, in training
the domains; a convolutional context network h gives each image one channel (1, H, W), and with the mean of
its group appended as a channel,

    L = 1/N sum_i CE(o_i, y_i),    o_i = classifier(featurizer([x_i ; 1/K sum_{k in group of i} h(x_k)]))

h: convolutions 5 x 5 of 64, 64 and 1 filters, with batch norm and ReLU between them. A last, smaller group is
a group of its own; DomainBed would take the whole batch as one where K does not divide it.
Source: DomainBed, algorithms.py, class ARM; networks.py, class ContextNet. As there, h keeps its initial
weights (its optimizer is made before it); ``arm_train_context`` true trains it, as the paper does.
Differs from the paper: the frozen h, and no meta-batches of sampled domains: every batch has them all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithm import MULTI_SOURCE, Problem
from ..hparams import FOLDERS
from .erm import ERM


class ARM(ERM):
    """Cross-entropy of a network that also sees a summary of the domain's batch."""

    hparams = {"arm_train_context": (False, None)}
    hparams_on = {FOLDERS: {"batch_size": (8, None)}}
    tasks = MULTI_SOURCE
    quirks = {"unmoved": r"context\..*", "batch": "the context is the mean of a group of images"}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        channels, height, width = problem.input_shape
        super().__init__(replace(problem, input_shape=(channels + 1, height, width)), hp)
        layers: list[nn.Module] = []
        for inputs in (channels, 64):
            layers += [nn.Conv2d(inputs, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU()]
        self.context = nn.Sequential(*layers, nn.Conv2d(64, 1, 5, padding=2))
        self.context.requires_grad_(hp["arm_train_context"])

    def features(self, x: Tensor) -> Tensor:
        maps = self.context(x)  # (N, 1, H, W)
        group = torch.arange(len(x), device=x.device) // self.hp["batch_size"]
        sums = torch.zeros_like(maps).index_add(0, group, maps)  # row g: the sum of group g
        counts = torch.zeros_like(group).index_add(0, group, torch.ones_like(group)).clamp(min=1)
        means = sums / counts.view(-1, 1, 1, 1)
        return self.featurizer(torch.cat([x, means[group]], 1))
