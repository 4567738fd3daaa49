"""MCC: Minimum Class Confusion for Versatile Domain Adaptation (Jin et al., ECCV 2020).

arXiv 1912.03699, section 3.
Objective as coded, source rows x (N), target rows u (M) in one forward pass, target logits o (M, C):

    L = 1/N sum_i CE(source logits_i, y_i) + trade_off * 1/C sum_{k != l} G_kl
    p = softmax(o / temperature),  w_j = 1 + exp(-H(p_j)), divided by their mean, no gradient
    Q_kl = sum_j p_jk w_j p_jl,    G_kl = Q_kl / sum_m Q_km

The network is DANN_UDA's without its discriminator. trade_off 0 never looks at the target.
Source: the paper; TLL, mcc.py. Optimizer and schedule on Office-31 and Office-Home: TLL's for DANN.
Differs from the paper: nothing known.
"""

from torch import Tensor

from ..hparams import LogUniform
from ..losses.adversarial import certainty_weights
from ..losses.precision import full_precision
from .dan import DAN, TRANSFER
from .dann_uda import TLL


class MCC(DAN):
    """Keeps a target image from being two classes at once."""

    hparams = {**TRANSFER, "temperature": (2.5, LogUniform(0, 0.7))}
    hparams_on = TLL
    batch_norm = True

    @full_precision
    def transfer(self, z: Tensor, logits: Tensor, n: int) -> Tensor:
        p = (logits[n:] / self.hp["temperature"]).softmax(1)  # (M, C)
        confusion = p.T @ (certainty_weights(p).detach()[:, None] * p)  # (C, C)
        rates = confusion / confusion.sum(1, keepdim=True)
        return (rates.sum() - rates.trace()) / len(rates)
