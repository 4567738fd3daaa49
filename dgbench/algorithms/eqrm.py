"""EQRM: Probable Domain Generalization via Quantile Risk Minimization (Eastwood et al., NeurIPS 2022).

arXiv 2207.09944, Algorithm 1.
Objective as coded, R (D,) the mean cross-entropies of the source domains, a = eqrm_quantile:

    L = mean R before update eqrm_burnin_iters, then lo + t (hi - lo)
    lo = min R + h q, hi = max R + h q,    h = 1.06 std(R) D^(-1/5),    q = the standard normal's a-quantile
    t in [0, 1]: mean_e Phi((lo + t (hi - lo) - R_e) / h) = a, to 2^-32 or the rounding of R

So L is the a-quantile of the Gaussian kernel density of the risks (std unbiased), with gradients through lo
and hi alone. At update eqrm_burnin_iters Adam starts anew with the learning rate eqrm_lr.
Source: DomainBed, algorithms.py, class EQRM.
Differs from the paper: t has no gradient (the exact quantile's gradient passes through the kernels); a
random search draws eqrm_burnin_iters as a fraction, and then no update equals it: as in DomainBed, Adam
keeps its state and the learning rate lr.
"""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import LogUniform, Uniform
from ..losses.penalties import domain_risks


class EQRM(Algorithm):
    """A quantile of the domains' risks."""

    hparams = {
        "eqrm_quantile": (0.75, Uniform(0.5, 0.99)),
        "eqrm_burnin_iters": (2500.0, LogUniform(2.5, 3.5)),
        "eqrm_lr": (1e-6, LogUniform(-7, -5)),
    }
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {}

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        first, then = self.hp["lr"], self.hp["eqrm_lr"]
        late = self.step == self.hp["eqrm_burnin_iters"]
        return [self.optimizer(self.parameters(), lr=then if late else first)]

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        risks = domain_risks(self.apart(self, batch.x, batch.num_domains), batch.y, batch.members)  # (D,)
        burnin, alpha = self.hp["eqrm_burnin_iters"], self.hp["eqrm_quantile"]
        if self.step == burnin:
            self.reset_optimizers()
        return risks.mean() if self.step < burnin else quantile(risks, alpha), {"nll": risks.mean()}


def quantile(risks: Tensor, alpha: float) -> Tensor:
    """The ``alpha``-quantile of the kernel density of risks (D,), as in the module's docstring."""
    width = 1.06 * risks.std() * len(risks) ** -0.2
    shift = width * NormalDist().inv_cdf(alpha)
    low, high = risks.min() + shift, risks.max() + shift
    with torch.no_grad():
        ticks = torch.arange(1, 256, dtype=risks.dtype, device=risks.device)[:, None] / 256
        t = torch.zeros_like(low)
        for k in range(4):  # eight binary digits of t at a time
            points = low + (t + ticks * 256.0**-k) * (high - low)  # (255, 1)
            below = torch.special.ndtr((points - risks) / width).mean(1) < alpha
            t = t + below.sum() * 256.0 ** -(k + 1)
    return low + t * (high - low)
