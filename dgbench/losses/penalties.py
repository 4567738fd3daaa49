"""Risks of domains, and penalties on how they change from one domain to another."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from .precision import full_precision
from .sets import set_means


def domain_risks(logits: Tensor, y: Tensor, members: Tensor) -> Tensor:
    """Mean cross-entropy of each domain: (N, C), (N,), (D, N) bool -> (D,)."""
    return set_means(cross_entropy(logits, y, reduction="none"), members)


@full_precision
def irm_penalty(logits: Tensor, y: Tensor, members: Tensor) -> Tensor:
    """mean_e g_e^even g_e^odd: (N, C), (N,), (D, N) bool -> scalar, which can be negative.

    g is the mean over the even or odd rows of a domain of d/ds CE(s o, y) at s = 1, which is
    sum_c p_c o_c - o_y with p = softmax(o). Two halves make the square of the gradient's mean unbiased
    (Arjovsky et al., 2019, arXiv 1907.02893, IRMv1 and appendix D; halves as in DomainBed).
    """
    slope = (logits.softmax(1) * logits).sum(1) - logits.gather(1, y[:, None])[:, 0]  # (N,)
    even = members.cumsum(1) % 2 == 1  # the first row of a domain is even
    return (set_means(slope, members & even) * set_means(slope, members & ~even)).mean()
