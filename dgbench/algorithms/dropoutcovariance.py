"""DropoutCovariance: Dropout with a penalty on covariances, a baseline of RCL (Duboudin et al., ICCVW 2021).

arXiv 2106.07916, section 4.2; the penalty is DeCov, Cogswell et al., ICLR 2016, arXiv 1511.06068.
Objective as coded, C the covariance (divisor N) of the means over space of the channels of the feature map
in front of the dropout (N, C, H, W):

    L = L_Dropout + covariance_weight 1/2 (|C|_F^2 - |diag C|_2^2)

covariance_samples "positions": every position is a sample; "flat": every position of a channel a dimension.
Source: the papers; no code of their authors.
Differs from the paper: nothing known; which activations it means, of these three, is left open there.
"""

from torch import Tensor, nn

from ..hparams import Choice, Option
from ..losses.redundancy import SAMPLES, covariance
from .dropout import Dropout


class DropoutCovariance(Dropout):
    """Channel dropout, and activations before it that do not vary together."""

    hparams = {
        **Dropout.hparams,
        "covariance_weight": (0.01, Choice((0.001, 0.01, 0.1, 1.0, 5.0, 10.0))),
        "covariance_samples": ("channel_means", Option(SAMPLES)),
    }
    erm_when = {"dropout_max": 0.0, "covariance_weight": 0.0}

    def penalty(self, maps: nn.Module, f: Tensor) -> Tensor:
        return self.hp["covariance_weight"] * covariance(f, self.hp["covariance_samples"])
