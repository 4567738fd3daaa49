"""k-means of unit vectors, with scikit-learn or, where it is installed, faiss."""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from .errors import UsageError
from .losses.precision import full_precision

LIBRARIES = ("scikit-learn", "faiss")
FAISS_POINTS = {"min_points_per_centroid": 2, "max_points_per_centroid": 2000}
"""UCDIR's: with more points per cluster, faiss clusters a sample of so many."""


def kmeans(
    x: Tensor, k: int, seed: int = 0, restarts: int = 5, iterations: int = 20, library: str = "scikit-learn"
) -> tuple[Tensor, Tensor]:
    """k-means of x (N, d), the best of ``restarts``: centroids (K, d) and clusters (N,), K = min(k, N).

    A centroid is the mean of its rows, not of unit length. One thread: its result is then a function of x.
    """
    k, points = min(k, len(x)), x.detach().float().numpy(force=True)
    if not np.isfinite(points).all():
        raise UsageError("features to be clustered are not finite: training diverged; give a smaller lr")
    with threadpool_limits(1):
        fit = _faiss if library == "faiss" else _scikit_learn
        centroids, labels = fit(points, k, seed, restarts, iterations)
    return torch.from_numpy(centroids).to(x), torch.from_numpy(labels).to(x.device, torch.int64)


def _scikit_learn(points, k, seed, restarts, iterations):  # type: ignore[no-untyped-def]
    from sklearn.cluster import KMeans  # slow to import

    found = KMeans(k, n_init=restarts, max_iter=iterations, random_state=seed).fit(points)
    return found.cluster_centers_, found.labels_


def _faiss(points, k, seed, restarts, iterations):  # type: ignore[no-untyped-def]
    try:
        import faiss
    except ImportError:
        raise UsageError(f"faiss is not installed; choose from: clustering={LIBRARIES[0]}") from None
    found = faiss.Kmeans(points.shape[1], k, niter=iterations, nredo=restarts, seed=seed, **FAISS_POINTS)
    found.train(points)
    return found.centroids, found.index.search(points, 1)[1][:, 0]


@full_precision
@torch.no_grad()
def spherical_kmeans(
    x: Tensor, k: int, runs: int, generator: torch.Generator, iterations: int = 40
) -> tuple[Tensor, Tensor]:
    """k-means by cosine of unit vectors x (N, d), several runs at once: centroids (R, K, d), clusters (R, N).

    A run starts at K random rows; a centroid is the mean of its rows, of unit length, and stays where it lost
    all of them. K = min(k, N). generator: of the CPU.
    """
    k = min(k, len(x))
    start = torch.stack([torch.randperm(len(x), generator=generator)[:k] for _ in range(runs)])
    centroids = x[start.to(x.device)]  # (R, K, d)
    for _ in range(iterations):
        labels = (x @ centroids.transpose(1, 2)).argmax(2)  # (R, N)
        sums = one_hot(labels, k).to(x.dtype).transpose(1, 2) @ x  # (R, K, d)
        centroids = torch.where(sums.any(2, keepdim=True), normalize(sums, dim=2), centroids)
    return centroids, (x @ centroids.transpose(1, 2)).argmax(2)
