"""The partially reversed contrastive loss: rows of a class are pushed apart until another class is near."""

from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full_precision

RESCALES = ("scalar", "per_channel", "per_dimension")
DISTANCES = ("sum", "mean")


class Neighbours(NamedTuple):
    """The nearest other row of the same class, and the nearest row of another class, of every row.

    positive, negative (N,): their indices, the lowest among equals, -1 where there is none. d_positive,
    d_negative (N,): their distances, infinite where there is none.
    """

    positive: Tensor
    negative: Tensor
    d_positive: Tensor
    d_negative: Tensor

    def active(self, margin: float) -> Tensor:
        """(N,) bool: d_positive < margin d_negative; any positive will do without a margin or a negative."""
        near = self.d_positive < margin * self.d_negative
        return (self.positive >= 0) & (near if margin < torch.inf else True)


@full_precision
def unit_range(features: Tensor, rescale: str = "scalar", through: bool = True) -> Tensor:
    """(f - min f) / (max f - min f): (N, C, ...) -> (N, D) in [0, 1]; 0 where all of f is equal.

    scalar: the extremes are those of the whole batch; per_channel: of each of C, over rows and positions;
    per_dimension: of each of the D, over rows. through: whether the gradient flows through the extremes.
    """
    if rescale == "per_dimension":
        low, high = features.min(0).values, features.max(0).values  # the gradient goes to one of equals
    else:
        over = [d for d in range(features.dim()) if d != 1 or rescale == "scalar"]
        low, high = features.amin(over, keepdim=True), features.amax(over, keepdim=True)  # shared among them
    if not through:
        low, high = low.detach(), high.detach()
    width = high - low
    return ((features - low) / torch.where(width > 0, width, 1)).flatten(1)


@full_precision
def neighbours(h: Tensor, labels: Tensor, distance: str = "sum") -> Neighbours:
    """By L1 distance, the sum or the mean over the dimensions of h (N, D); without a gradient."""
    h = h.detach()
    distances = torch.cdist(h, h, p=1) / (h.shape[1] if distance == "mean" else 1)
    same = labels[:, None] == labels
    himself = torch.eye(len(h), dtype=torch.bool, device=h.device)
    found = []
    for candidates in (same & ~himself, ~same):
        masked = distances.masked_fill(~candidates, torch.inf)
        index, nearest = masked.argmin(1), masked.amin(1)
        found.append((torch.where(candidates.any(1), index, -1), nearest))
    (positive, d_positive), (negative, d_negative) = found
    return Neighbours(positive, negative, d_positive, d_negative)


@full_precision
def reversed_contrastive(
    h: Tensor, found: Neighbours, margin: float = torch.inf, distance: str = "sum"
) -> Tensor:
    """Terms (N,): -|h_i - h_p|_1 for the positive p of row i where i is active, else 0; p gets no gradient.

    h (N, D). Source: Duboudin et al., ICCVW 2021, arXiv 2106.07916, Eq. 2 and Algorithm 1.
    """
    apart = (h - h.detach()[found.positive]).abs()
    d = apart.sum(1) if distance == "sum" else apart.mean(1)
    return torch.where(found.active(margin), -d, torch.zeros_like(d))
