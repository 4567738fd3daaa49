"""SupCon: Supervised Contrastive Learning, jointly with cross-entropy (Khosla et al., NeurIPS 2020).

arXiv 2004.11362, equation 2.
Objective as coded, r_i = head(z_i) of unit length (128,), s_ij = r_i . r_j / temperature, P(i) the other rows
of i's class in the batch, from any domain:

    L = CE + supcon_weight * mean_i -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_{a != i} exp(s_ia) )

over the rows with P(i) not empty; head: linear (F, F), ReLU, linear (F, 128), used in training only.
Source: the paper's equation.
Differs from the paper: one stage with cross-entropy beside it instead of pretraining and then a linear
classifier; one view per image, so positives are other images; temperature 0.1 as in the paper's text.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import Choice, LogUniform
from ..losses.supcon import supcon
from ..networks.heads import projector


class SupCon(Algorithm):
    """Pulls rows of a class together, whatever their domain, and away from all others."""

    hparams = {
        "supcon_weight": (1.0, LogUniform(-1, 1)),
        "temperature": (0.1, Choice((0.05, 0.07, 0.1, 0.2))),
    }
    erm_when = {"supcon_weight": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.head = projector(self.featurizer.n_outputs, 128)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.features(batch.x)
        ce = cross_entropy(self.classifier(z), batch.y)
        contrast = supcon(self.head(z), batch.y, self.hp["temperature"])
        return ce + self.hp["supcon_weight"] * contrast, {"ce": ce, "supcon": contrast}
