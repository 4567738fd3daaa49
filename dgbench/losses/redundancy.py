"""Penalties on filters or activations that do the same thing."""

import torch
from torch import Tensor

from .precision import full_precision

SAMPLES = ("channel_means", "positions", "flat")


@full_precision
def soft_orthogonality(weight: Tensor) -> tuple[Tensor, Tensor]:
    """|W W^T - I|_F^2 and |W^T W - I|_F^2, W (M, D) from weight (M, ...); their sum is "double soft".

    Only the smaller of the two products is formed: the norms differ by the difference of the sides, D - M, as
    both products have the same non-zero eigenvalues. Source: Bansal et al., NeurIPS 2018, arXiv 1810.09102.
    """
    w = weight.flatten(1)
    rows, columns = w.shape
    small = w if rows <= columns else w.T
    norm = _less_identity(small @ small.T).square().sum()
    other = norm + abs(columns - rows)
    return (norm, other) if rows <= columns else (other, norm)


@full_precision
def spectral_isometry(weight: Tensor, start: Tensor) -> Tensor:
    """|A v|^2, v = A s / |A s|: one step of power iteration towards the squared spectral norm of A.

    A is the smaller of W W^T - I and W^T W - I, W (M, D) from weight (M, ...); s = start (min(M, D), 1).
    Source: Bansal et al., NeurIPS 2018, SRIP, as in the authors' Wide-Resnet/train_n.py.
    """
    w = weight.flatten(1)
    small = w if w.shape[0] <= w.shape[1] else w.T
    a = _less_identity(small @ small.T)
    v = a @ start
    return (a @ (v / v.norm())).square().sum()


@full_precision
def covariance(h: Tensor, samples: str = "channel_means") -> Tensor:
    """1/2 (|C|_F^2 - |diag C|^2), C the biased covariance of h (N, D), or of maps (N, C, H, W) taken as

    channel_means: N samples of C dimensions, the means over space; positions: N H W samples of C dimensions;
    flat: N samples of C H W dimensions. Source: Cogswell et al., ICLR 2016, arXiv 1511.06068.
    """
    if h.ndim == 4:
        if samples == "channel_means":
            h = h.mean((2, 3))
        else:
            h = h.permute(0, 2, 3, 1).flatten(0, 2) if samples == "positions" else h.flatten(1)
    centred = h - h.mean(0)
    c = centred.T @ centred / len(h)
    return (c.square().sum() - c.diagonal().square().sum()) / 2


def _less_identity(a: Tensor) -> Tensor:
    return a - torch.eye(len(a), dtype=a.dtype, device=a.device)
