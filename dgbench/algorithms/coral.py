"""CORAL: Correlation Alignment for deep domain generalization (Sun and Saenko, ECCV Workshops 2016).

arXiv 1607.01719, equations 1 and 6.
Objective as coded, features z (N, F), R_e = mean cross-entropy of source domain e, D domains:

    L = 1/D sum_e R_e + mmd_gamma mean over pairs a < b of P_ab
    P_ab = 1/F |mu_a - mu_b|^2 + 1/F^2 |C_a - C_b|^2_Frobenius

mu_e and C_e are the mean and the unbiased covariance of the features of domain e; nothing is detached. Where
batch norm trains, each domain has a forward pass of its own.
Source: DomainBed, algorithms.py, class CORAL (its name of the weight is mmd_gamma).
Differs from the paper: the term of the means is added; the covariance term is over F^2 instead of 4 F^2;
all pairs of source domains instead of source and target.
"""

from torch import Tensor

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.alignment import coral, pair_mean
from ..losses.penalties import domain_risks


class CORAL(Algorithm):
    """Risk, and the distance between the domains' features; ``MMD`` changes the distance."""

    hparams = {"mmd_gamma": (1.0, LogUniform(-1, 1))}
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"mmd_gamma": 0.0}
    distance = staticmethod(coral)

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean distance over the pairs of domains: features (N, F) -> scalar."""
        return pair_mean(self.distance(z, batch.members))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.apart(self.features, batch.x, batch.num_domains)
        nll = domain_risks(self.classifier(z), batch.y, batch.members).mean()
        penalty = self.penalty(z, batch)
        return nll + self.hp["mmd_gamma"] * penalty, {"nll": nll, "penalty": penalty}
