"""Statistics of sets of rows, all sets at once.

A set is a row of ``members`` (S, N) bool: which of the N rows belong to it. Sets may overlap and differ in
size; the source domains of a batch are ``batch.members``.
"""

import torch
from torch import Tensor

from .precision import full_precision


def set_sizes(members: Tensor, ddof: int = 0) -> Tensor:
    """(S, N) -> (S, 1): rows of each set less ``ddof``, at least 1."""
    return (members.sum(1, keepdim=True) - ddof).clamp(min=1)


@full_precision
def set_means(values: Tensor, members: Tensor) -> Tensor:
    """(N, ...) -> (S, ...): mean over each set's rows; 0 for an empty set."""
    weights = members.to(values.dtype) / set_sizes(members)  # (S, N)
    return (weights.view(*weights.shape, *(1,) * (values.ndim - 1)) * values).sum(1)


@full_precision
def set_variances(values: Tensor, members: Tensor) -> Tensor:
    """(N, F) -> (S, F): unbiased variance over each set's rows; 0 for a set of one row."""
    centred = values - set_means(values, members)[:, None]  # (S, N, F)
    return (members[..., None] * centred.square()).sum(1) / set_sizes(members, ddof=1)


def starts(sizes: Tensor) -> Tensor:
    """The first row of each set, (S,), where sets of ``sizes`` (S,) rows follow each other."""
    return sizes.cumsum(0) - sizes


def column(values: Tensor, x: Tensor) -> Tensor:
    """One value per row, (N,), in a shape that multiplies x (N, ...)."""
    return values.view(-1, *(1,) * (x.ndim - 1))


def shuffled_by_label(y: Tensor) -> Tensor:
    """The rows in the order of their labels, at random within each: (N,) -> (N,)."""
    shuffled = torch.randperm(len(y), device=y.device)
    return shuffled[y[shuffled].argsort(stable=True)]
