"""Heads on pooled features (N, F)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(n_inputs: int, n_outputs: int, width: int, depth: int, dropout: float = 0.0) -> nn.Sequential:
    """``depth`` linear layers of ``width`` units, dropout then ReLU after all but the last.

    Source: DomainBed, networks.py, class MLP; a depth below two still gives two layers.
    """
    layers: list[nn.Module] = []
    for inputs in (n_inputs, *[width] * (depth - 2)):
        layers += [nn.Linear(inputs, width), nn.Dropout(dropout), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, n_outputs))


def projector(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """Linear (F, F), ReLU, linear (F, n_outputs): the usual head in front of a contrastive loss."""
    return nn.Sequential(nn.Linear(n_inputs, n_inputs), nn.ReLU(), nn.Linear(n_inputs, n_outputs))


def blocks(widths: Sequence[int], dropout: float | None = None) -> list[nn.Module]:
    """From each width to the next: linear, batch norm, ReLU, and dropout if it is given."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers += [] if dropout is None else [nn.Dropout(dropout)]
    return layers


def bottleneck(n_inputs: int, width: int, batch_norm: bool = True) -> nn.Sequential:
    """Between backbone and classifier in adaptation: linear and batch norm, ReLU; or linear, ReLU, dropout.

    Source: TLL, common/modules/classifier.py and the scripts of DANN, CDAN (batch norm) and DAN (dropout).
    """
    if batch_norm:
        return nn.Sequential(*blocks((n_inputs, width)))
    return nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(0.5))


def discriminator(n_inputs: int, width: int) -> nn.Sequential:
    """Two blocks of linear, batch norm, ReLU of ``width`` units, one logit (TLL, domain_discriminator.py)."""
    return nn.Sequential(*blocks((n_inputs, width, width)), nn.Linear(width, 1))
