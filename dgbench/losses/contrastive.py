"""Contrastive losses between samples and class proxies."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .precision import full_precision

PROXY_VARIANTS = ("official", "aligned", "paper", "paper_indomain")


@full_precision
def proxy_contrastive(
    features: Tensor,
    labels: Tensor,
    proxies: Tensor,
    domains: Tensor | None = None,
    scale: float = 12.0,
    variant: str = "aligned",
    gate: float = 1e-6,
) -> Tensor:
    """PCL's loss, the mean over rows i of -log( exp(a p_i) / (exp(a p_i) + sum of exp(a negatives of i)) ).

    features (N, d), labels (N,) in 0..C-1, proxies (C, d), domains (N,). a = ``scale``; s_ij and p_ik are the
    cosines of the features of i with those of j and with proxy k; p_i = p_iy_i. The negatives of row i:

    - aligned: s_ij for all j of another class with s_ij >= ``gate``.
    - official: the same, but row i takes the p of row sigma(i), sigma = stable argsort of the labels: the
      official code collects them class by class. Equal to aligned when the batch is sorted by class.
    - paper: s_ij for all j of another class, and p_ik for all k != y_i (CVPR 2022, Eq. 4-5, read literally).
    - paper_indomain: as paper, with j of the same domain as i only.

    A row without negatives contributes 0. Source: PCL, losses.py, class ProxyPLoss.
    """
    z = normalize(features)  # (N, d)
    to_proxies = z @ normalize(proxies).T  # (N, C)
    to_samples = z @ z.T  # (N, N)
    positive = to_proxies.gather(1, labels[:, None])  # (N, 1)
    negative = labels[:, None] != labels[None, :]  # (N, N)
    columns = [positive]
    if variant in ("official", "aligned"):
        negative &= to_samples >= gate
        if variant == "official":
            columns = [positive[labels.argsort(stable=True)]]
    else:
        columns.append(to_proxies.scatter(1, labels[:, None], -torch.inf))
        if variant == "paper_indomain":
            assert domains is not None, "negatives of the same domain need the domains"
            negative &= domains[:, None] == domains[None, :]
    columns.append(to_samples.masked_fill(~negative, -torch.inf))
    logits = scale * torch.cat(columns, dim=1)  # the positive is column 0
    return cross_entropy(logits, torch.zeros_like(labels))
