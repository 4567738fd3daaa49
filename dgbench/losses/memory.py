"""Losses against a memory bank: one remembered unit vector per image. f (n, d), bank (N, d), index (n,)."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .precision import full_precision


@full_precision
def unit(x: Tensor) -> Tensor:
    """Rows (n, d) of unit length."""
    return normalize(x)


@full_precision
def similarities(f: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """f_i . rows_j / temperature: (n, d), (..., N, d) -> (..., n, N)."""
    return f @ rows.mT / temperature


@full_precision
def instance_discrimination(f: Tensor, bank: Tensor, index: Tensor, temperature: float) -> Tensor:
    """mean_i -log softmax_j(f_i . bank_j / temperature) at j = index_i (Wu et al., CVPR 2018, equation 2)."""
    return cross_entropy(similarities(f, bank, temperature), index)


@full_precision
def noise_contrastive(
    f: Tensor, bank: Tensor, index: Tensor, noise: Tensor, temperature: float, z: Tensor
) -> Tensor:
    """The estimate of ``instance_discrimination`` from K noise rows per image (Wu et al., equations 4-7).

    noise: (n, K) indices of the bank. With P_ij = exp(f_i . bank_j / temperature) / z and q = K / N:

        mean_i [ -log P_i,index / (P_i,index + q + 1e-7) - sum_{j in noise_i} log q / (P_ij + q + 1e-7) ]

    z: the normaliser, see ``normaliser``. Source: lemniscate.pytorch, lib/NCECriterion.py.
    """
    p = _scores(f, bank, index, noise, temperature) / z
    q = noise.shape[1] / len(bank)
    own = (p[:, 0] / (p[:, 0] + q + 1e-7)).log()
    other = (q / (p[:, 1:] + q + 1e-7)).log()
    return -(own + other.sum(1)).mean()


@full_precision
def normaliser(f: Tensor, bank: Tensor, index: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """N times the mean of exp(f_i . bank_j / temperature): what the official code takes for z, once."""
    return len(bank) * _scores(f, bank, index, noise, temperature).mean().detach()


def _scores(f: Tensor, bank: Tensor, index: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """exp of the similarities to the own row and to the noise rows: (n, 1 + K)."""
    rows = bank[torch.cat((index[:, None], noise), 1)]  # (n, 1 + K, d)
    return ((rows @ f[:, :, None])[..., 0] / temperature).exp()


@full_precision
def softmax_entropy(logits: Tensor, eps: float = 0.0) -> Tensor:
    """Mean entropy of the softmax over the last axis, in nats; eps: added to p in the logarithm."""
    p = logits.softmax(-1)
    log_p = (p + eps).log() if eps else logits.log_softmax(-1)
    return -(p * log_p).sum(-1).mean()


@full_precision
def matching_entropy(
    f: Tensor, bank: Tensor, temperature: float, neighbours: int = 0, eps: float = 0.0
) -> Tensor:
    """Entropy of the softmax over the similarities to another domain's rows, the nearest ``neighbours`` ones.

    neighbours: 0 for all. Source: CDS (Kim et al., ICCV 2021; 700 neighbours, eps 1e-5), PCS (all, no eps).
    """
    logits = similarities(f, bank, temperature)
    if 0 < neighbours < len(bank):
        logits = logits.topk(neighbours, 1).values
    return softmax_entropy(logits, eps)
