"""Losses against clusters of a memory or of key features. q (n, d), centroids (K, d): unit vectors."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from .precision import full_precision


@full_precision
def cluster_contrast(
    q: Tensor, bank: Tensor, own: Tensor, labels: Tensor, keep: Tensor, temperature: float
) -> Tensor:
    """UCDIR's cluster-wise contrast (Hu and Lee, ECCV 2022, equation 2), the mean over the kept rows i of

        -1/|P_i| sum_{p in P_i} log softmax_a(q_i . bank_a / temperature) at p

    own: (n,) clusters of q. labels: (N,) clusters of the bank's rows; P_i are those of i's cluster, the row
    of image i among them. keep: (n,) bool. 0 where none is kept.
    """
    log_p = (q @ bank.T / temperature).log_softmax(1)
    positive = (own[:, None] == labels).to(log_p.dtype)
    terms = (log_p * positive).sum(1) / positive.sum(1)
    return -(terms * keep).sum() / (keep.sum() + 1e-8)


@full_precision
def distance_of_distance(q: Tensor, first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """UCDIR's comparison of two domains' centroids (equation 8) as its code has it.

    With D^c_ij = 1 - cos(p^c_i, p^c_j), p^c_i = softmax_u(q_i . c_u / temperature):
    mean_i sum_j (D^first_ij - D^second_ij + 1e-6)^2.
    """
    a, b = (normalize((q @ c.T / temperature).softmax(1)) for c in (first, second))
    return (b @ b.T - a @ a.T + 1e-6).square().sum(1).mean()


@full_precision
def prototype_contrast(q: Tensor, centroids: Tensor, own: Tensor, density: Tensor) -> Tensor:
    """Mean cross-entropy of q . c_u / density_u at the own cluster (PCL: Li et al., ICLR 2021, equation 11).

    centroids (..., K, d), own (..., n), density (..., K): of one clustering or of several.
    """
    logits = q @ centroids.mT / density[..., None, :]  # (..., n, K)
    return cross_entropy(logits.flatten(0, -2), own.flatten())


@full_precision
def batch_prototype_contrast(q: Tensor, centroids: Tensor, own: Tensor, density: Tensor) -> Tensor:
    """The same of one clustering as PCL's code has it: a column for each row of the batch, with its cluster,
    and one for each cluster of no row. Rows of one cluster are thus each other's negatives."""
    logits = q @ centroids.T / density  # (n, K)
    taken = one_hot(own, len(centroids)).any(0)
    columns = torch.cat((logits[:, own], logits.masked_fill(taken, -torch.inf)), 1)  # (n, n + K)
    return cross_entropy(columns, torch.arange(len(q), device=q.device))


def concentration(x: Tensor, centroids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of a cluster's rows to its centroid over log(n_u + 10), and n_u: each (K,).

    x (N, d), centroids (K, d), labels (N,). Source: PCL and PCS; 0 for an empty cluster.
    """
    sizes = torch.bincount(labels, minlength=len(centroids)).to(x.dtype)
    distances = (x - centroids[labels]).square().sum(1).sqrt()
    total = torch.zeros_like(sizes).index_add(0, labels, distances)
    return total / sizes.clamp(min=1) / (sizes + 10).log(), sizes


def pcl_density(x: Tensor, centroids: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """PCL's temperatures of clusters (K,): clusters below two rows get the largest, the ends are cut at the
    10th and 90th percentile, the mean is ``temperature``. centroids: raw, not of unit length."""
    density, sizes = concentration(x, centroids, labels)
    density = density.where(sizes > 1, density[sizes > 1].max()) if (sizes > 1).any() else density + 1
    low, high = torch.quantile(density, density.new_tensor([0.1, 0.9]))
    density = density.clamp(low, high)
    return temperature * density / density.mean()


def pcs_density(x: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """PCS's temperatures of clusters (K,), at least 0.05: 0.05 for one row, -1 for none. centroids: unit."""
    density, sizes = concentration(x, centroids, labels)
    return torch.where(sizes > 1, density.clamp(min=0.05), torch.where(sizes == 1, 0.05, -1.0))
