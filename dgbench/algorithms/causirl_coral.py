"""CausIRL_CORAL: Invariant Causal Mechanisms through Distribution Matching (Chevalley et al., arXiv 2022).

arXiv 2206.11646.
Objective as coded, features z (N, F), R_e = mean cross-entropy of source domain e, D domains of B rows:

    L = 1/D sum_e R_e + mmd_gamma P(z_first, z_second),    P the pair term of CORAL

``first`` holds the first c_e rows of every domain and ``second`` the rest, c_e uniform in {0, ..., B-1},
drawn anew in each update; P counts as 0 while one of the two has fewer than two rows.
Source: DomainBed, algorithms.py, class CausIRL_CORAL.
Differs from the paper: nothing known; P has CORAL's own deviations.
"""

import torch
from torch import Tensor

from ..algorithm import Batch
from .coral import CORAL


class CausIRL_CORAL(CORAL):
    """CORAL's objective between two random mixtures of the domains."""

    def cuts(self, batch: Batch) -> Tensor:
        """(D,) rows of each domain that go to the first mixture."""
        sizes = batch.members.sum(1)
        return (torch.rand(len(sizes), device=sizes.device) * sizes).long()

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        members = batch.members
        first = (members & (members.cumsum(1) <= self.cuts(batch)[:, None])).any(0)  # (N,)
        mixtures = torch.stack([first, ~first])
        distance = self.distance(z, mixtures)[0, 1]
        return torch.where(mixtures.sum(1).min() > 1, distance, 0.0)
