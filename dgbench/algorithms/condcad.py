"""CondCAD: Optimal Representations for Covariate Shift, conditional bottleneck (Ruan et al., ICLR 2022).

arXiv 2201.00057.
Objective as coded: CAD's, within classes. With s_ij, tau and the row itself apart as in CAD:

    B_i = -log sum_{j: y_j = y_i, d_j != d_i} exp(s_ij) / sum_{k: y_k = y_i, k != i} exp(s_ik)

over the rows that share their class with a row of another domain; with ``is_flipped`` false
B_i = +log of the same fraction over d_j = d_i, j != i, over the rows with such a partner.
Source: DomainBed, algorithms.py, class AbstractCAD with is_conditional on.
Differs from the paper: as CAD does.
"""

from torch import Tensor

from .cad import CAD


class CondCAD(CAD):
    """CAD among the rows of one class."""

    def masks(self, same_y: Tensor, same_d: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top = same_y & (~same_d if self.hp["is_flipped"] else same_d)
        return top, same_y, top.any(1)
