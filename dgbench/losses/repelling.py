"""The repelling half of a contrastive loss."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .precision import full_precision

NEGATIVES = ("all", "cross", "same")


@full_precision
def repelling(
    z: Tensor,
    y: Tensor,
    d: Tensor,
    kept: Tensor,
    temperature: float,
    negatives: str = "all",
    mean: bool = False,
) -> Tensor:
    """The mean over anchors i of log sum_j exp(z_i . z_j / temperature), j the negatives of i.

    z (N, F), made unit length here; y, d (N,) classes and domains; kept (N,) bool: the rows that take part,
    as anchors and as negatives. Negatives of i are the rows of another class: of "all" domains, of other
    domains only ("cross"), or of its own ("same"). Anchors are the rows that have one; 0 if there is none.
    mean: the logarithm of the mean in place of the sum, less by log(number of negatives), the same gradient.
    """
    z = normalize(z, dim=1)
    pairs = kept & kept[:, None] & (y != y[:, None])  # (N, N)
    if negatives != "all":
        pairs &= (d == d[:, None]) == (negatives == "same")
    count = pairs.sum(1)
    # rows without a negative get a finite value, which the second mask leaves out
    free = pairs | (count == 0)[:, None]
    terms = (z @ z.T / temperature).masked_fill(~free, -torch.inf).logsumexp(1)
    if mean:
        terms = terms - count.clamp(min=1).to(terms.dtype).log()
    return terms.where(count > 0, 0.0).sum() / (count > 0).sum().clamp(min=1)
