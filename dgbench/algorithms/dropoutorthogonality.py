"""DropoutOrthogonality: Dropout with orthogonal filters, a baseline of RCL (Duboudin et al., ICCVW 2021).

arXiv 2106.07916, section 4.2; the penalty is Bansal et al., NeurIPS 2018, arXiv 1810.09102.
Objective as coded, W (M, K) the filters of the last convolution before the dropout, one a row:

    L = L_Dropout + orthogonality_weight (|W W^T - I|_F^2 + |W^T W - I|_F^2)

orthogonality "soft": the first norm only; "spectral": |A v|^2 of the smaller Gram matrix less I, one step of
power iteration from a random vector (SRIP).
Source: the papers; Bansal et al. published code for SRIP alone.
Differs from the paper: nothing known. Where M < K, the second norm is the first + K - M, a constant apart.
"""

import torch
from torch import Tensor, nn

from ..hparams import Choice, Option
from ..losses.redundancy import soft_orthogonality, spectral_isometry
from .dropout import Dropout


class DropoutOrthogonality(Dropout):
    """Channel dropout, and filters of the last convolution before it that are orthogonal."""

    hparams = {
        **Dropout.hparams,
        "orthogonality_weight": (1.0, Choice((0.001, 0.01, 0.1, 1.0, 5.0, 10.0))),
        "orthogonality": ("double_soft", Option(("double_soft", "soft", "spectral"))),
    }
    erm_when = {"dropout_max": 0.0, "orthogonality_weight": 0.0}

    def penalty(self, maps: nn.Module, f: Tensor) -> Tensor:
        *_, last = (m for m in maps.modules() if isinstance(m, nn.Conv2d))
        weight, kind = last.weight, self.hp["orthogonality"]
        if kind == "spectral":
            side = min(len(weight), weight[0].numel())
            value = spectral_isometry(weight, torch.rand(side, 1, device=weight.device))
        else:
            rows, columns = soft_orthogonality(weight)
            value = rows + columns if kind == "double_soft" else rows
        return self.hp["orthogonality_weight"] * value
