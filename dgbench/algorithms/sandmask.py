"""SANDMask: SAND-mask, an Enhanced Gradient Masking Strategy (Shahtalebi et al., ICML workshop 2021).

arXiv 2106.02266, section 3.
Objective as coded: ANDMask with a smooth mask. With g_d the gradient of domain d's mean cross-entropy by one
parameter tensor, d = 1..D, var the unbiased variance over d, and all operations per entry of it:

    m = max(0, tanh( k / var * (|1/D sum_d sign(g_d)| - tau) )),   G = m * (1/D sum_d g_d) / (1e-10 + mean(m))

and m = 1e-17 where it is not a number (var = 0 and |.| = tau); G is given to Adam.
Source: DomainBed, algorithms.py, class SANDMask (its forward pass: see ANDMask).
Differs from the paper: with DomainBed's default, tau = 1, the mask is zero everywhere and nothing trains; its
random draws are from U(0, 1).
"""

import torch
from torch import Tensor

from ..hparams import LogUniform, Uniform
from .andmask import ANDMask


class SANDMask(ANDMask):
    """The mean gradient, weighted by how well the domains' gradients agree."""

    hparams = {"tau": (1.0, Uniform(0.0, 1.0)), "k": (10.0, LogUniform(-3, 5))}
    erm_when = {"tau": -1.0, "k": 1e9}
    quirks = {"unmoved": ".*"}

    def mask(self, grads: Tensor) -> Tensor:
        agreement = torch.sign(grads).mean(0).abs() - self.hp["tau"]
        mask = torch.tanh(self.hp["k"] / grads.var(0) * agreement).clamp(min=0)
        return mask.nan_to_num(nan=1e-17)
