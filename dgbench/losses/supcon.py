"""Supervised contrastive losses."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .precision import full_precision


@full_precision
def supcon(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """L_out of supervised contrastive learning (Khosla et al., NeurIPS 2020; arXiv 2004.11362, equation 2).

    z: (N, D), made unit length here. y: (N,) classes. With s_ij = z_i . z_j / temperature and P(i) the other
    rows of i's class:

        mean_i -1/|P(i)| sum_{p in P(i)} log( e^{s_ip} / sum_{a != i} e^{s_ia} )

    over the rows with P(i) not empty. Zero, with a zero gradient, if there is none.
    """
    s, positive, others = _pairs(z, y, temperature)
    log_p = s - s.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)  # (N, N)
    return -_mean_over_partners(log_p, positive).sum() / positive.any(1).sum().clamp(min=1)


@full_precision
def domain_weighted_supcon(
    z: Tensor, y: Tensor, d: Tensor, temperature: float = 0.07, same_domain: float = 0.5
) -> Tensor:
    """The form with weights for pairs inside and across domains, as DomainBed codes it for ADRMX.

    z: (N, D), made unit length here. y, d: (N,) classes, domains. With
    e_ij = w_ij exp(z_i . z_j / temperature), w_ij = same_domain where d_i = d_j, else 1 - same_domain, and
    n rows with a partner of their class:

        1/(n + 1) sum_i -1/|P(i)| sum_{p in P(i)} log( e_ip / (sum_{a != i} e_ia + 1e-5) + 1e-5 )
    """
    s, positive, others = _pairs(z, y, temperature)
    weights = torch.where(d == d[:, None], same_domain, 1.0 - same_domain)
    terms = weights * s.exp() * others  # (N, N)
    log_p = (terms / (terms.sum(1, keepdim=True) + 1e-5) + 1e-5).log()
    return -_mean_over_partners(log_p, positive).sum() / (positive.any(1).sum() + 1)


def _pairs(z: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines over the temperature, same-class pairs and all pairs, each (N, N); no row with itself."""
    z = normalize(z, dim=1)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    return z @ z.T / temperature, (y == y[:, None]) & others, others


def _mean_over_partners(values: Tensor, positive: Tensor) -> Tensor:
    """(N, N) -> (N,): the mean over each row's partners, 0 for a row without any."""
    return values.where(positive, 0.0).sum(1) / positive.sum(1).clamp(min=1)
