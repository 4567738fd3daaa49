"""Mean and covariance of the features of each class, kept up to date batch by batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from .precision import full_precision


class ClassStatistics(nn.Module):
    """Population mean (C, d) and covariance of all rows seen so far; exact, in any order and batching.

    covariance: (C, d, d), or its diagonal (C, d). count: (C,), rows seen. A class without rows has zeros.
    Source: SePiCo, proto_estimator.py, which keeps the diagonal; the full matrix merges in the same way.
    """

    mean: Tensor
    covariance: Tensor
    count: Tensor

    def __init__(self, num_classes: int, dim: int, full: bool = False) -> None:
        super().__init__()
        self.full = full
        self.register_buffer("mean", torch.zeros(num_classes, dim))
        self.register_buffer("covariance", torch.zeros(num_classes, *[dim] * (1 + full)))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    @full_precision
    def update(self, z: Tensor, y: Tensor) -> None:
        """Take in features z (N, d) of the classes y (N,).

        With w = n_new / (n_old + n_new) and g = mean_new - mean_old of a class, the merged mean is
        mean_old + w g, the merged covariance (1 - w) cov_old + w cov_new + w (1 - w) g g^T.
        """
        n, share = _shares(y, len(self.count), z.dtype)
        mean = share @ z
        covariance = (share @ self._squares(z - mean[y])).view_as(self.covariance)
        self.count += n
        w = (n.to(z.dtype) / self.count.clamp(min=1))[:, None]  # (C, 1)
        gap = mean - self.mean
        between = (w * (1 - w) * self._squares(gap)).view_as(self.covariance)
        self.mean += w * gap
        self.covariance += w.view(-1, *[1] * (1 + self.full)) * (covariance - self.covariance) + between

    def _squares(self, v: Tensor) -> Tensor:
        """(N, d) -> v v^T of each row, flat: (N, d d), or its diagonal (N, d)."""
        return (v[:, :, None] * v[:, None]).flatten(1) if self.full else v.square()


class ClassBank(nn.Module):
    """The last M batch centroids of each class: centroids (C, M, d).

    A class's first centroid fills all its places, so that nothing is averaged with zeros; a class without
    rows has zeros. Source: SePiCo, BankCL, with M = 200.
    """

    centroids: Tensor
    count: Tensor

    def __init__(self, num_classes: int, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(num_classes, size, dim))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))  # batches with the class

    @torch.no_grad()
    @full_precision
    def update(self, z: Tensor, y: Tensor) -> None:
        """Put the means of features z (N, d) of the classes y (N,) in the oldest places."""
        n, share = _shares(y, len(self.count), z.dtype)
        mean = share @ z
        places = torch.arange(self.centroids.shape[1], device=z.device)
        oldest = places == (self.count % len(places))[:, None]  # (C, M)
        write = (n > 0)[:, None] & (oldest | (self.count == 0)[:, None])
        self.centroids = torch.where(write[:, :, None], mean[:, None], self.centroids)
        self.count += n > 0


def _shares(y: Tensor, num_classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of each class (C,), and the weights (C, N) of their mean; zeros for a class without rows."""
    rows = one_hot(y, num_classes).T
    n = rows.sum(1)
    return n, rows.to(dtype) / n.clamp(min=1)[:, None]
