"""Fish: Gradient Matching for Domain Generalization (Shi et al., ICLR 2022).

arXiv 2104.09937, Algorithm 1.
Objective as coded, an update from weights w (parameters and buffers), domains d = 1..D in their fixed order:

    w_0 = w,   w_d = Adam(w_{d-1}, grad of 1/B sum_i CE(o_di, y_di) at w_{d-1}),   w <- w + meta_lr (w_D - w)

To first order w_D - w also raises the inner products of the domains' gradients. The inner Adam keeps its
state from update to update; the logged loss is the mean of the D losses met on the way.
Source: DomainBed, algorithms.py, class Fish.
Differs from the paper: the inner steps are Adam's, not SGD's, and the order of the domains is fixed, not
drawn anew; the buffers (batch-norm statistics) are interpolated too.
"""

import torch
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import Choice


class Fish(Algorithm):
    """A step towards where one pass over the domains, one at a time, leads."""

    hparams = {"meta_lr": (0.5, Choice((0.05, 0.1, 0.5)))}
    tasks = MULTI_SOURCE
    min_domains = 2

    def update(self, batch: Batch) -> Logs:
        start = [value.detach().clone() for value in self.state_dict().values()]
        losses = []
        for x, y in zip(batch.per_domain(batch.x), batch.per_domain(batch.y), strict=True):
            loss = cross_entropy(self(x), y)
            self.descend(loss)
            losses.append(loss.detach())
        with torch.no_grad():
            for now, before in zip(self.state_dict().values(), start, strict=True):
                now.copy_(before + self.hp["meta_lr"] * (now - before))
        return {"loss": torch.stack(losses).mean(), "last_domain": losses[-1]}
