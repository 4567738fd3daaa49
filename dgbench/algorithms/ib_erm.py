"""IB_ERM: Information Bottleneck Empirical Risk Minimization (Ahuja et al., NeurIPS 2021).

arXiv 2106.06607, equation of IB-ERM.
Objective as coded, features z (N, F), R_e = mean cross-entropy of source domain e, D domains:

    L = 1/D sum_e R_e + w 1/D sum_e 1/F sum_k Var_e(z_k),    Var_e unbiased, over the rows of domain e
    w = 0 before update ib_penalty_anneal_iters, ib_lambda from then on; Adam starts anew there

Source: DomainBed, algorithms.py, class IB_ERM.
Differs from the paper: the entropy of the features is replaced by their variance, as in the authors' code;
DomainBed logs the whole loss under the name nll, here nll is the risk.
"""

from torch import Tensor

from ..algorithm import Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.penalties import domain_risks
from ..losses.sets import set_variances


class IB_ERM(Algorithm):
    """Risk, and the variance of the features within a domain."""

    hparams = {
        "ib_lambda": (1e2, LogUniform(-1, 5)),
        "ib_penalty_anneal_iters": (500, LogUniform(0, 4, integer=True)),
    }
    erm_when = {"ib_lambda": 0.0, "ib_penalty_anneal_iters": 0}

    def penalized(self, z: Tensor, logits: Tensor, batch: Batch) -> tuple[Tensor, Logs]:
        """Features (N, F) and logits (N, C) -> the loss and its parts."""
        nll = domain_risks(logits, batch.y, batch.members).mean()
        penalty = set_variances(z, batch.members).mean()
        weight = self.annealed("ib_lambda", "ib_penalty_anneal_iters")
        return nll + weight * penalty, {"nll": nll, "ib_penalty": penalty}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.features(batch.x)
        return self.penalized(z, self.classifier(z), batch)
