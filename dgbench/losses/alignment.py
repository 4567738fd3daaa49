"""Distances between the distributions of sets of features, all pairs at once.

Sets are rows of ``members`` (S, N) bool, see ``sets``. Both distances are squared distances between means in
the feature space of a kernel, so one N x N matrix of kernel values serves every pair of sets:

    |m_a - m_b|^2 = <m_a, m_a> + <m_b, m_b> - 2 <m_a, m_b>,   <m_a, m_b> = sum_ij w_ai k(z_i, z_j) w_bj
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import full_precision
from .sets import set_means, set_sizes

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@full_precision
def coral(z: Tensor, members: Tensor) -> Tensor:
    """Gaps in mean and covariance of each pair of disjoint sets: (N, F), (S, N) -> (S, S).

    mean_k (mu_a,k - mu_b,k)^2 + mean_kl (C_a,kl - C_b,kl)^2, C the unbiased covariance (Sun & Saenko, 2016,
    arXiv 1607.01719, equation 1 has the second term alone, over 4 F^2 instead of F^2; DomainBed has both).
    The covariances are never formed: <C_a, C_b> = sum_ij (c_i . c_j)^2 / ((n_a - 1)(n_b - 1)) over the
    centred rows i of a and j of b.
    """
    mean = set_means(z, members)  # (S, F)
    centred = z - members.to(z.dtype).T @ mean  # (N, F)
    weights = members.to(z.dtype) / set_sizes(members, ddof=1)
    covariance_gap = _gaps((centred @ centred.T).square(), weights)
    return (mean[:, None] - mean).square().mean(-1) + covariance_gap / z.shape[1] ** 2


@full_precision
def mmd(z: Tensor, members: Tensor, gammas: Sequence[float] = GAMMAS) -> Tensor:
    """Squared maximum mean discrepancy of each pair of sets: (N, F), (S, N) -> (S, S).

    Biased estimate (the diagonal counts), kernel k(x, y) = sum over ``gammas`` of exp(-gamma |x - y|^2), a
    sum and not a mean, |x - y|^2 at least 1e-30 as in DomainBed (Gretton et al., 2012, equation 5).
    """
    square = z.square().sum(1)
    distance = (square[:, None] + square - 2 * z @ z.T).clamp(min=1e-30)  # (N, N)
    kernel = sum((torch.exp(-gamma * distance) for gamma in gammas), torch.zeros_like(distance))
    return _gaps(kernel, members.to(z.dtype) / set_sizes(members))


def pair_mean(gaps: Tensor) -> Tensor:
    """(S, S) -> mean over the S(S-1)/2 pairs; 0 for one set."""
    return gaps.triu(1).sum() / max(1, len(gaps) * (len(gaps) - 1) // 2)


def _gaps(kernel: Tensor, weights: Tensor) -> Tensor:
    """(N, N), (S, N) -> (S, S): |m_a - m_b|^2 of the module's docstring."""
    inner = weights @ kernel @ weights.T
    norm = inner.diagonal()
    return norm[:, None] + norm - 2 * inner
