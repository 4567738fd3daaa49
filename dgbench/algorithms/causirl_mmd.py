"""CausIRL_MMD: Invariant Causal Mechanisms through Distribution Matching (Chevalley et al., arXiv 2022).

arXiv 2206.11646.
Objective as coded, features z (N, F), R_e = mean cross-entropy of source domain e, D domains:

    L = 1/D sum_e R_e + mmd_gamma P(z_first, z_second),    P the pair term of MMD

``first`` and ``second`` are the random mixtures of CausIRL_CORAL.
Source: DomainBed, algorithms.py, class CausIRL_MMD.
Differs from the paper: nothing known; P has MMD's own deviations.
"""

from ..losses.alignment import mmd
from .causirl_coral import CausIRL_CORAL


class CausIRL_MMD(CausIRL_CORAL):
    """CausIRL with the maximum mean discrepancy as the distance."""

    distance = staticmethod(mmd)
