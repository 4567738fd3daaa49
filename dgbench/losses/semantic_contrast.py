"""Contrast of features with the distributions of classes (SePiCo: Xie et al., TPAMI 2023, arXiv 2204.08808).

Shapes: queries q (N, d) of unit length, labels y (N,), class means mu (K, d), class covariances S (K, d, d)
or their diagonals (K, d), t the temperature. The statistics get no gradient.
"""

import math

import torch
from torch import Tensor

from .precision import full_precision

SPREADS = ("scale", "sepico")


@full_precision
def class_contrast(
    q: Tensor, y: Tensor, mean: Tensor, covariance: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """Loss of each query (N,): log sum_k exp(q.mu_k / t + q^T S_k q / (2 t^2)) - q.mu_y / t.

    ProtoCL without a covariance: the cross-entropy of q.mu_k / t. DistCL with one: a bound on the contrast
    with infinitely many samples of Gaussian classes.
    """
    similarity = q @ mean.T / temperature  # (N, K)
    logits = similarity
    if covariance is not None:
        logits = similarity + quadratic(q, covariance) / (2 * temperature**2)
    return logits.logsumexp(1) - similarity.gather(1, y[:, None]).squeeze(1)


def quadratic(q: Tensor, covariance: Tensor) -> Tensor:
    """(N, d), (K, d, d) or diagonals (K, d) -> q^T S_k q, (N, K); K N d^2 products at most."""
    if covariance.ndim == 2:
        return q.square() @ covariance.T
    return torch.einsum("knd,nd->nk", q @ covariance, q)


@full_precision
def bank_contrast(q: Tensor, y: Tensor, bank: Tensor, temperature: float = 0.1) -> Tensor:
    """BankCL, loss of each query (N,): mean over the m centroids of its class y of

        -log( exp(s_ym) / (exp(s_ym) + sum_{k != y} exp(mean_m s_km)) ),   s_km = q . bank_km / t

    bank: (K, M, d), M centroids of each class. Source: SePiCo, contrastive_loss.py; the paper
    has the mean of the exponentials.
    """
    s = torch.einsum("nd,kmd->nkm", q, bank) / temperature
    negative = s.mean(2).scatter(1, y[:, None], -torch.inf).logsumexp(1)  # (N,)
    positive = s.take_along_dim(y[:, None, None], 1).squeeze(1)  # (N, M)
    return (torch.logaddexp(positive, negative[:, None]) - positive).mean(1)


@full_precision
def spread(q: Tensor, mean: Tensor, temperature: float = 0.1, form: str = "scale") -> Tensor:
    """The regulariser on the mean query, with log p = log softmax_k(mean_i q_i . mu_k / t).

    scale: -1/K sum_k log p_k, at least log K, there where all classes are equally near (SCALE, section 4.4).
    sepico: +1/(K log K) sum_k log p_k, SePiCo's code: its sign is the opposite.
    """
    log_p = (q.mean(0) @ mean.T / temperature).log_softmax(0)  # (K,)
    return -log_p.mean() if form == "scale" else log_p.mean() / math.log(len(log_p))
