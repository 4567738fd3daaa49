"""A classifier whose weights are drawn from learnt normal distributions."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from ..losses.memory import similarities, unit


class StochasticClassifier(nn.Module):
    """Cosine logits z . w_c / (|z| |w_c| temperature), w = mu + softplus(sigma - 4) eps, eps ~ N(0, 1).

    mu (C, F) starts at 0.01 N(0, 1), sigma (C, F) at 0, a standard deviation of 0.018. Source: the stochastic
    classifier of Lu et al., CVPR 2020, as KaiyangZhou/ssdg-benchmark has it.
    """

    def __init__(self, n_inputs: int, num_classes: int, temperature: float = 0.05) -> None:
        super().__init__()
        self.mu = nn.Parameter(0.01 * torch.randn(num_classes, n_inputs))
        self.sigma = nn.Parameter(torch.zeros(num_classes, n_inputs))
        self.temperature = temperature

    def forward(self, z: Tensor) -> Tensor:
        """Logits of w = mu: (N, F) -> (N, C)."""
        return similarities(unit(z), normalize(self.mu), self.temperature)

    def sample(self, z: Tensor, groups: int = 1) -> Tensor:
        """Logits of drawn weights, a draw for each of ``groups`` equal runs of rows: (N, F) -> (N, C)."""
        noise = torch.randn(groups, *self.mu.shape, dtype=self.mu.dtype, device=self.mu.device)
        w = self.mu + softplus(self.sigma - 4) * noise
        rows = unit(z).unflatten(0, (groups, -1))
        return similarities(rows, normalize(w, dim=2), self.temperature).flatten(0, 1)
