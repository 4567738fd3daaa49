"""GroupDRO: Distributionally Robust Neural Networks for Group Shifts (Sagawa et al., ICLR 2020).

arXiv 1911.08731, Algorithm 1; a group is a source domain.
Objective as coded, R_e = mean cross-entropy of source domain e, q (D,) kept over updates, ones at first:

    q_e <- q_e exp(groupdro_eta R_e) / sum_e' q_e' exp(groupdro_eta R_e'),    no gradient through q
    L = sum_e q_e R_e, divided by D if groupdro_divide

Source: DomainBed, algorithms.py, class GroupDRO.
groupdro_divide: DomainBed before 2021 and the SWAD repository divide the loss by D as well.
Differs from the paper: groups are domains alone, sampled equally often; no adjustment by group size, no
early stopping or strong weight decay of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform
from ..losses.penalties import domain_risks


class GroupDRO(Algorithm):
    """Risks weighted towards the worst domain."""

    hparams = {
        "groupdro_eta": (1e-2, LogUniform(-3, -1)),
        "groupdro_divide": (False, None),
    }
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"groupdro_eta": 0.0}
    q: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.register_buffer("q", torch.ones(problem.num_domains))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        risks = domain_risks(self.apart(self, batch.x, batch.num_domains), batch.y, batch.members)  # (D,)
        self.q = self.q * (self.hp["groupdro_eta"] * risks.detach()).exp()
        self.q = self.q / self.q.sum()
        loss = (self.q * risks).sum()  # a product of matrices would be rounded under autocast
        return loss / len(risks) if self.hp["groupdro_divide"] else loss, {"nll": risks.mean()}
