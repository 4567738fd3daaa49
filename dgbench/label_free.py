"""Label-free validators: how good a model's predictions on a target look without its labels."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .losses.precision import full_precision

NEIGHBOURHOOD = 4096
"""Images between which soft neighbourhood density looks for neighbours; its cost is their square."""


@full_precision
def validators(logits: Tensor) -> dict[str, float]:
    """Of logits (n, C), in nats: mean entropy, information maximisation, mean confidence, and ``density``.

    im: entropy of the mean prediction less the mean entropy.
    ``collect.evidence.LABEL_FREE`` has their better ends.
    """
    p = logits.softmax(1)
    mean_entropy = _entropy(logits.log_softmax(1)).mean()
    values = {
        "entropy": mean_entropy,
        "im": _entropy(p.mean(0).log()) - mean_entropy,
        "confidence": p.amax(1).mean(),
        "snd": density(p),
    }
    return {name: float(value) for name, value in values.items()}


@full_precision
def density(p: Tensor, temperature: float = 0.05) -> Tensor:
    """Soft neighbourhood density of probabilities (n, C) (Saito et al., ICCV 2021, arXiv 2108.10860).

    The mean entropy of softmax_j(cos(p_i, p_j) / temperature), row i of itself at cosine -1 as in the
    official code. Of more than ``NEIGHBOURHOOD`` rows, only so many, evenly spaced.
    """
    at = torch.linspace(0, len(p) - 1, min(len(p), NEIGHBOURHOOD), device=p.device).long()
    z = normalize(p[at])
    return torch.cat([_rows(z, part, temperature) for part in torch.arange(len(z)).split(512)]).mean()


def _rows(z: Tensor, part: Tensor, temperature: float) -> Tensor:
    """Entropies (m,) of the rows ``part`` (m,) of the similarities of z (n, C)."""
    cosine = z[part] @ z.T
    cosine[torch.arange(len(part)), part] = -1
    return _entropy((cosine / temperature).log_softmax(1))


def _entropy(log_p: Tensor) -> Tensor:
    """Of log-probabilities (..., C), over the last dimension; 0 log 0 is 0."""
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1)
