"""Distances between the distributions of sets of features, all pairs at once.

Sets are rows of ``members`` (S, N) bool, see ``sets``. Both distances are squared distances between means in
the feature space of a kernel, so one N x N matrix of kernel values serves every pair of sets:

    |m_a - m_b|^2 = <m_a, m_a> + <m_b, m_b> - 2 <m_a, m_b>,   <m_a, m_b> = sum_ij w_ai k(z_i, z_j) w_bj
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .precision import full_precision
from .sets import set_means, set_sizes

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
ESTIMATORS = ("linear", "quadratic")


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
    distance = _square_distances(z)
    kernel = sum((torch.exp(-gamma * distance) for gamma in gammas), torch.zeros_like(distance))
    return _gaps(kernel, members.to(z.dtype) / set_sizes(members))


@full_precision
def multi_kernel_mmd(source: Tensor, target: Tensor, estimator: str = "linear") -> Tensor:
    """DAN's discrepancy of features (n, F) and (m, F), a scalar (Long et al., ICML 2015, arXiv 1502.02791).

    k(x, y) = sum over a in 2^-3, ..., 2^1 of exp(-|x - y|^2 / (2 a v)), v the mean squared distance of all
    (n + m)^2 pairs, which gets no gradient.

    quadratic: mean_{i != j} k(s_i, s_j) + mean_{i != j} k(t_i, t_j) - 2 mean_ij k(s_i, t_j).
    linear: 1/K sum_{i < K} k(s_i, s_i') + k(t_i, t_i') - k(s_i, t_i') - k(s_i', t_i), with i' = i + 1, K the
    larger of n and m, rows counted modulo n and m.

    Plus the constant 1 / (n - 1) + 1 / (m - 1), 1 for a single row. Source: TLL, dan.py, kernels.py.
    """
    n, m = len(source), len(target)
    z = torch.cat((source, target))
    square = _square_distances(z)
    widths = [2.0**e * square.detach().mean() for e in range(-3, 2)]
    kernel = torch.stack([(-square / (2 * width)).exp() for width in widths]).sum(0)
    return (_pair_weights(n, m, estimator, z.device) * kernel).sum() + 1 / max(n - 1, 1) + 1 / max(m - 1, 1)


@cache
def _pair_weights(n: int, m: int, estimator: str, device: torch.device) -> Tensor:
    """(n + m, n + m): the weight of each pair in the estimator; float32, as in TLL."""
    weights = torch.zeros(n + m, n + m, device=device)
    if estimator == "linear":
        steps = torch.arange(max(n, m), device=device)
        (s, s2), (t, t2) = ((i + (steps % k), i + ((steps + 1) % k)) for i, k in ((0, n), (n, m)))
        for a, b, sign in ((s, s2, 1), (t, t2, 1), (s, t2, -1), (s2, t, -1)):
            weights.index_put_((a, b), weights.new_tensor(sign / len(steps)), accumulate=True)
        return weights
    weights[:n, :n], weights[n:, n:] = 1 / max(n * (n - 1), 1), 1 / max(m * (m - 1), 1)
    weights[:n, n:] = weights[n:, :n].T.fill_(-1 / (n * m))
    return weights.fill_diagonal_(0)


def pair_mean(gaps: Tensor) -> Tensor:
    """(S, S) -> mean over the S(S-1)/2 pairs; 0 for one set."""
    return gaps.triu(1).sum() / max(1, len(gaps) * (len(gaps) - 1) // 2)


def _square_distances(z: Tensor) -> Tensor:
    """(N, F) -> |z_i - z_j|^2, (N, N), at least 1e-30."""
    square = z.square().sum(1)
    return (square[:, None] + square - 2 * z @ z.T).clamp(min=1e-30)


def _gaps(kernel: Tensor, weights: Tensor) -> Tensor:
    """(N, N), (S, N) -> (S, S): |m_a - m_b|^2 of the module's docstring."""
    inner = weights @ kernel @ weights.T
    norm = inner.diagonal()
    return norm[:, None] + norm - 2 * inner
