"""IRM: Invariant Risk Minimization (Arjovsky et al., arXiv 2019).

arXiv 1907.02893, equation (IRMv1).
Objective as coded, D source domains, logits o (N, C), labels y (N,):

    L = 1/D sum_e R_e + w 1/D sum_e g_e^even g_e^odd,    R_e = mean of CE(o_i, y_i) over domain e
    g_e^half = mean over the even (odd) rows of domain e of d/ds CE(s o_i, y_i) at s = 1
    w = 1 before update irm_penalty_anneal_iters, irm_lambda from then on; Adam starts anew there

Source: DomainBed, algorithms.py, class IRM.
Differs from the paper: the squared gradient is the product of two half-batch gradients (unbiased, can be
negative); domains are averaged, not summed; the authors' code also divides the loss by w > 1 and adds an L2
term, DomainBed does neither.
"""

from torch import Tensor

from ..algorithm import Algorithm, Batch, Logs
from ..hparams import LogUniform
from ..losses.penalties import domain_risks, irm_penalty


class IRM(Algorithm):
    """Risk, and the gradient of each domain's risk with respect to a scale of the logits."""

    hparams = {
        "irm_lambda": (1e2, LogUniform(-1, 5)),
        "irm_penalty_anneal_iters": (500, LogUniform(0, 4, integer=True)),
    }
    erm_when = {"irm_lambda": 0.0, "irm_penalty_anneal_iters": 0}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        logits = self(batch.x)
        nll = domain_risks(logits, batch.y, batch.members).mean()
        penalty = irm_penalty(logits, batch.y, batch.members)
        weight = self.annealed("irm_lambda", "irm_penalty_anneal_iters", before=1.0)
        return nll + weight * penalty, {"nll": nll, "penalty": penalty}
