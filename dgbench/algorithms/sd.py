"""SD: Gradient Starvation, Spectral Decoupling (Pezeshki et al., NeurIPS 2021).

arXiv 2011.09468, equation of spectral decoupling.
Objective as coded, logits o (N, C):

    L = 1/N sum_i CE(o_i, y_i) + sd_reg 1/(N C) sum_ic o_ic^2

Source: DomainBed, algorithms.py, class SD.
Differs from the paper: the mean over all N C logits instead of half the sum over a row's classes, so sd_reg
is lambda C / 2 in the paper's scale; the authors' code for coloured MNIST also scales the cross-entropy down
after 450 updates, and for CelebA it pulls the logits to constants per class instead of zero. On the data of
the RCL paper (arXiv 2106.07916) sd_reg is its 5, of which it does not say whether of the mean or of the sum.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs
from ..hparams import LogUniform, on_missing_patterns


class SD(Algorithm):
    """Cross-entropy and an L2 penalty on the logits."""

    hparams = {"sd_reg": (0.1, LogUniform(-5, -1))}
    hparams_on = on_missing_patterns({"sd_reg": (5.0, LogUniform(-5, 1))})
    erm_when = {"sd_reg": 0.0}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        logits = self(batch.x)
        nll = cross_entropy(logits, batch.y)
        penalty = logits.to(nll.dtype).square().mean()
        return nll + self.hp["sd_reg"] * penalty, {"nll": nll, "penalty": penalty}
