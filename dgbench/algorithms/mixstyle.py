"""MixStyle: Domain Generalization with MixStyle (Zhou et al., ICLR 2021).

arXiv 2104.02008, section 2.
Objective as coded: mean cross-entropy of a network in which, in training, the feature map after each of the
stages ``mixstyle_layers`` becomes, with probability mixstyle_p each, per sample i and channel c

    y = (x_i - mu_i) / s_i * (lam_i s_i + (1 - lam_i) s_p(i)) + lam_i mu_i + (1 - lam_i) mu_p(i)

mu_i, s_i = sqrt(var_i + 1e-6): mean and root of the unbiased variance over space (C,), not differentiated;
lam_i ~ Beta(a, a), a = mixstyle_alpha; p(i): the partner. ``mixstyle_mix``:
"random": partners by a permutation of the batch; "crossdomain": each domain's partners come from another;
"pairs": the batch is regrouped into (first half of domain d, second half of domain d + 1), d = 1..D, and
partners come from the other half of the group; each group tosses its own coin at each stage.
Source: the official code (mixstyle-release); "pairs": the SWAD repository, class Mixstyle2.
Differs from the paper: "crossdomain" there has batches of two random domains, here of all; "pairs" are one
pass, so that batch norm which trains sees all of them, in Mixstyle2 each alone; the rest of the paper's
recipe (SGD, cosine schedule, random translation) is not the method. The stages are those of DomainBed-era
runs on ResNets (after residual stages 1, 2, 3); the paper has 1 and 2 for OfficeHome. Small networks: after
those convolutions that they have.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Batch, Logs, Problem
from ..errors import UsageError
from ..hparams import Choice, Option
from ..networks.style import Between, StyleMixing, half_pairs
from .erm import ERM


class MixStyle(ERM):
    """Cross-entropy, with the styles of feature maps mixed between samples."""

    hparams = {
        "mixstyle_p": (0.5, None),
        "mixstyle_alpha": (0.1, Choice((0.1, 0.2, 0.3))),
        "mixstyle_mix": ("random", Option(("random", "crossdomain", "pairs"))),
        "mixstyle_layers": ("123", None),
    }
    erm_when = {"mixstyle_p": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        mix = hp["mixstyle_mix"]
        if mix != "random" and problem.num_domains < 2:
            raise UsageError(f"mixstyle_mix={mix} needs two source domains; choose from: random")
        layer = StyleMixing(hp["mixstyle_p"], hp["mixstyle_alpha"], mix, problem.num_domains)
        self.featurizer = Between(self.featurizer, layer, hp["mixstyle_layers"])

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        if self.hp["mixstyle_mix"] == "pairs":
            sizes = [len(batch.x) // batch.num_domains] * batch.num_domains
            rows = torch.cat(half_pairs(sizes)).to(batch.x.device)
            batch = replace(batch, x=batch.x[rows], y=batch.y[rows])
        return super().loss(batch)
