"""IGA: Inter-environmental Gradient Alignment for Maximal Invariant Predictors (Koyama et al., arXiv 2020).

arXiv 2008.01883, section 4.
Objective as coded, with L_d the mean cross-entropy of domain d = 1..D and g_d its gradient by all parameters,
over all their entries k:

    L = 1/D sum_d L_d + penalty * sum_d sum_k (g_dk - gbar_k)^2,    gbar = 1/D sum_d g_d, not differentiated

Source: DomainBed, algorithms.py, class IGA.
Differs from the paper: it penalises the trace of the gradients' covariance, the mean over domains where the
code has the sum; at fixed gbar the derivative is the same, as the deviations sum to zero.
"""

from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.gradients import by_domain, separate_risks


class IGA(Algorithm):
    """Cross-entropy, and domains' gradients pulled to their mean."""

    hparams = {"penalty": (1000.0, LogUniform(1, 5))}
    erm_when = {"penalty": 0.0}
    tasks = MULTI_SOURCE
    min_domains = 2

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        risks, grads = by_domain(separate_risks(self, batch), list(self.parameters()), create_graph=True)
        penalty = sum(((g - g.detach().mean(0)).square().sum() for g in grads), start=risks.new_zeros(()))
        return risks.mean() + self.hp["penalty"] * penalty, {"ce": risks.mean(), "penalty": penalty}
