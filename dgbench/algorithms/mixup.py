"""Mixup: Inter-domain Mixup (Zhang et al., ICLR 2018; between domains, Yan et al., 2020).

arXiv 1710.09412, section 2; between domains, arXiv 2001.00677.
Objective as coded: the D domains in a random cycle are D pairs (i, j); with one lam ~ Beta(alpha, alpha) per
pair, alpha = mixup_alpha, and rows paired by their position b = 1..B,

    x_b = lam x_ib + (1 - lam) x_jb
    L   = mean over pairs and b of lam CE(o_b, y_ib) + (1 - lam) CE(o_b, y_jb)

where o_b are the logits of the mixed image x_b.
Source: DomainBed, algorithms.py, class Mixup.
Differs from the paper: rows are mixed with those of another domain, and lam is drawn per pair of domains, not
per batch.
"""

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.sets import column


class Mixup(Algorithm):
    """Cross-entropy on images that are blends of two domains."""

    hparams = {"mixup_alpha": (0.2, LogUniform(-1, 1))}
    tasks = MULTI_SOURCE
    min_domains = 2

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)
        i = torch.randperm(batch.num_domains).to(y.device)
        j = i.roll(-1)
        lam = Beta(self.hp["mixup_alpha"], self.hp["mixup_alpha"]).sample((batch.num_domains,)).to(x)
        return self.mixed_risk(x[i], y[i], x[j], y[j], lam), {}

    def mixed_risk(self, x_i: Tensor, y_i: Tensor, x_j: Tensor, y_j: Tensor, lam: Tensor) -> Tensor:
        """x (P, B, ...), y (P, B), lam (P,) for P pairs of domains -> the mean risk."""
        share = column(lam, x_i)
        logits = self.apart(self, (share * x_i + (1 - share) * x_j).flatten(0, 1), len(x_i))
        first, second = (cross_entropy(logits, y.flatten(), reduction="none").view_as(y) for y in (y_i, y_j))
        return (lam[:, None] * first + (1 - lam[:, None]) * second).mean()
