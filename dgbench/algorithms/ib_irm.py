"""IB_IRM: Information Bottleneck Invariant Risk Minimization (Ahuja et al., NeurIPS 2021).

arXiv 2106.06607, equation of IB-IRM.
Objective as coded, in the words of IRM and IB_ERM:

    L = 1/D sum_e R_e + w_irm 1/D sum_e g_e^even g_e^odd + w_ib 1/D sum_e 1/F sum_k Var_e(z_k)
    w_irm = 1 before update irm_penalty_anneal_iters, irm_lambda from then on
    w_ib = 0 before update ib_penalty_anneal_iters, ib_lambda from then on; Adam starts anew at both

Source: DomainBed, algorithms.py, class IB_IRM.
Differs from the paper: as IRM and IB_ERM do.
"""

from torch import Tensor

from ..algorithm import Batch, Logs
from ..losses.penalties import irm_penalty
from .ib_erm import IB_ERM
from .irm import IRM


class IB_IRM(IB_ERM):
    """IB_ERM with the penalty of IRM."""

    hparams = {**IB_ERM.hparams, **IRM.hparams}
    erm_when = {**IB_ERM.erm_when, **IRM.erm_when}

    def penalized(self, z: Tensor, logits: Tensor, batch: Batch) -> tuple[Tensor, Logs]:
        loss, logs = super().penalized(z, logits, batch)
        penalty = irm_penalty(logits, batch.y, batch.members)
        weight = self.annealed("irm_lambda", "irm_penalty_anneal_iters", before=1.0)
        return loss + weight * penalty, {**logs, "irm_penalty": penalty}
