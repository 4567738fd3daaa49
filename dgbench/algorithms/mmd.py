"""MMD: Domain Generalization with Adversarial Feature Learning, the MMD term (Li et al., CVPR 2018).

No arXiv id.
Objective as coded, features z (N, F), R_e = mean cross-entropy of source domain e, D domains:

    L = 1/D sum_e R_e + mmd_gamma mean over pairs a < b of P_ab
    P_ab = mean k(z_a, z_a') + mean k(z_b, z_b') - 2 mean k(z_a, z_b)
    k(x, y) = sum of exp(-g max(|x - y|^2, 1e-30)) over g in {1e-3, 1e-2, ..., 1e3}

Means run over all pairs of rows, a row with itself included.
Source: DomainBed, algorithms.py, class MMD.
Differs from the paper: no autoencoder and no adversary; a sum of seven kernels of fixed widths.
"""

from ..losses.alignment import mmd
from .coral import CORAL


class MMD(CORAL):
    """CORAL's objective with the maximum mean discrepancy as the distance."""

    distance = staticmethod(mmd)
