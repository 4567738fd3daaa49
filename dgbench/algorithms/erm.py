"""ERM: Empirical Risk Minimization (Vapnik, Wiley 1998).

Objective as coded, over the N = D*B rows of the batch (D source domains, B rows each):

    L = 1/N sum_i CE(o_i, y_i),    o = classifier(featurizer(x)) (N, C)

All domains have the same number of rows, so L is also the mean of the domains' risks.
Source: DomainBed, algorithms.py, class ERM; no arXiv id.
Differs from the paper: nothing.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs


class ERM(Algorithm):
    """Cross-entropy on the concatenated source domains."""

    erm_when = {}

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        return cross_entropy(self(batch.x), batch.y), {}
