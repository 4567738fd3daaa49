"""VREx: Risk Extrapolation by the Variance of Risks (Krueger et al., ICML 2021).

arXiv 2003.00688, equation of V-REx.
Objective as coded, R_e = mean cross-entropy of source domain e, D domains:

    L = m + w 1/D sum_e (R_e - m)^2,    m = 1/D sum_e R_e
    w = 1 before update vrex_penalty_anneal_iters, vrex_lambda from then on; Adam starts anew there

Source: DomainBed, algorithms.py, class VREx.
Differs from the paper: risks are averaged, not summed; the variance is the biased one.
"""

from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.penalties import domain_risks


class VREx(Algorithm):
    """Mean and variance of the domains' risks."""

    hparams = {
        "vrex_lambda": (1e1, LogUniform(-1, 5)),
        "vrex_penalty_anneal_iters": (500, LogUniform(0, 4, integer=True)),
    }
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"vrex_lambda": 0.0, "vrex_penalty_anneal_iters": 0}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        risks = domain_risks(self(batch.x), batch.y, batch.members)  # (D,)
        nll, penalty = risks.mean(), risks.var(unbiased=False)
        weight = self.annealed("vrex_lambda", "vrex_penalty_anneal_iters", before=1.0)
        return nll + weight * penalty, {"nll": nll, "penalty": penalty}
