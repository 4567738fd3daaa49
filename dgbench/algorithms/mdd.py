"""MDD: Bridging Theory and Algorithm for Domain Adaptation (Zhang et al., ICML 2019).

arXiv 1904.05801, section 5.
Objective as coded, source rows x (N), target rows u (M) in one forward pass, z the features (N + M, F),
o = classifier(z), c = argmax o, R the gradient reversal, q = softmax(adversary(R(z))):

    L = 1/N sum_i CE(o_i, y_i) + trade_off * (margin * mean over the source of -log q_c
        + mean over the target of -log min(1 - q_c + 1e-6, 1))

R multiplies the gradient by -reversal * (2 / (1 + exp(-t / reversal_steps)) - 1) at update t. Classifier and
adversary: linear, ReLU, dropout, linear. trade_off 0 never looks at the target.
The features end in DANN_UDA's bottleneck: linear, batch norm, ReLU.
Source: the paper; TLL, mdd.py. Optimizer and schedule on Office-31 and Office-Home: TLL's for DANN.
Differs from the paper: TLL's bottleneck for MDD is wider and has dropout, its layers begin with small normal
weights; here they are DANN's, with torch's.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Problem
from ..hparams import Choice
from ..losses.adversarial import reverse_gradient, warm_start
from .dan import DAN, TRANSFER
from .dann_uda import TLL


class MDD(DAN):
    """A second classifier departs from the first on the target alone; the features prevent it."""

    hparams = {
        **TRANSFER,
        "margin": (4.0, Choice((2.0, 3.0, 4.0))),
        "reversal": (0.1, None),
        "reversal_steps": (1000, None),
    }
    hparams_on = TLL
    own_classifier = True
    batch_norm = True

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.classifier, self.adversary = self._head(), self._head()

    def _head(self) -> nn.Sequential:
        width = self.hp["bottleneck"]
        out = nn.Linear(width, self.problem.num_classes)
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5), out)

    def transfer(self, z: Tensor, logits: Tensor, n: int) -> Tensor:
        coefficient = warm_start(self.step, self.hp["reversal"], self.hp["reversal_steps"])
        theirs, chosen = self.adversary(reverse_gradient(z, coefficient)), logits.argmax(1)
        q = theirs[n:].float().softmax(1).gather(1, chosen[n:, None])  # (M, 1)
        apart = -(1 - q + 1e-6).clamp(max=1).log().mean()
        return self.hp["margin"] * cross_entropy(theirs[:n], chosen[:n]) + apart
