"""Dropout: Channel dropout at a random rate, a baseline of RCL (Duboudin et al., ICCVW 2021).

arXiv 2106.07916, sections 4.2 and 5.1; dropout itself is Srivastava et al., JMLR 2014.
Objective as coded, with the last feature map f (N, C, H, W), the rest of the network o(.), one rate
p ~ U(0, dropout_max) for the whole update, and m_ic = 0 with probability p, else 1 / (1 - p):

    L = 1/N sum_i CE(o(f_i * m_i), y_i)

dropout_rescale False: m_ic is 1 instead of 1 / (1 - p).
Source: the paper; its authors published no code.
Differs from the paper: nothing known; whether it rescales by 1 / (1 - p) is left open there. Tried on
MNIST_MP, one trial, test accuracy of dropout and of dropout with orthogonality (31.9 and 42.7 there): with it
41.2 and 45.0, without it 25.2 and 31.8.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs


class Dropout(Algorithm):
    """Cross-entropy on feature maps whose channels are dropped at a rate drawn for each update."""

    hparams = {"dropout_max": (1.0, None), "dropout_rescale": (True, None)}
    erm_when = {"dropout_max": 0.0}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        maps, head = self.featurizer.maps_and_head()
        f = maps(batch.x)
        rate = (self.hp["dropout_max"] * torch.rand(())).to(f.device)
        nll = cross_entropy(self.classifier(head(self.drop(f, rate))), batch.y)
        penalty = self.penalty(maps, f)
        return nll + penalty, {"nll": nll, "penalty": penalty, "rate": rate}

    def drop(self, f: Tensor, rate: Tensor) -> Tensor:
        """Zero each channel (N, C) of f (N, C, H, W) with probability ``rate``, a scalar."""
        kept = torch.rand(f.shape[:2], device=f.device) >= rate
        scale = 1 / (1 - rate) if self.hp["dropout_rescale"] else 1
        return f * (kept * scale)[:, :, None, None].to(f.dtype)

    def penalty(self, maps: nn.Module, f: Tensor) -> Tensor:
        """What a variant adds, from the network in front of the dropout and its output; 0 here."""
        return f.new_zeros(())
