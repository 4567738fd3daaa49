"""ANDMask: Learning Explanations That Are Hard to Vary (Parascandolo et al., ICLR 2021).

arXiv 2009.00329, the AND-mask.
Objective as coded, with g_d the gradient of domain d's mean cross-entropy by one parameter tensor, d = 1..D,
and all operations per entry of it:

    m = [ |1/D sum_d sign(g_d)| >= tau ],    G = m * (1/D sum_d g_d) / (1e-10 + mean(m))

mean(m) is over the entries of the tensor; G is given to Adam.
Source: DomainBed, algorithms.py, class ANDMask. It makes one forward pass over all domains, here each domain
has its own: the same numbers unless batch-norm statistics are those of the batch.
Differs from the paper: the masked gradient is divided by the share of entries kept, per parameter tensor.
"""

import torch
from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import Uniform
from ..losses.gradients import by_domain, separate_risks


class ANDMask(Algorithm):
    """The mean gradient, where the domains' gradients agree in sign."""

    hparams = {"tau": (1.0, Uniform(0.5, 1.0))}
    erm_when = {"tau": 0.0}
    tasks = MULTI_SOURCE
    min_domains = 2

    def update(self, batch: Batch) -> Logs:
        params = list(self.parameters())
        risks, grads = by_domain(separate_risks(self, batch), params)
        for p, g in zip(params, grads, strict=True):
            mask = self.mask(g)
            p.grad = mask * g.mean(0) * (1 / (1e-10 + mask.mean()))
        self.optims[0].step()
        return {"loss": risks.mean()}

    def mask(self, grads: Tensor) -> Tensor:
        """grads (D, *shape) of one parameter -> (*shape)."""
        return (torch.sign(grads).mean(0).abs() >= self.hp["tau"]).float()
