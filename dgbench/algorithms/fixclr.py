"""FixCLR: Negative-Class Contrastive Learning for Semi-Supervised DG (Son et al., MIPR 2025).

arXiv 2506.20841; our reading: the abstract says what the term is, no code or equation was at hand.
Objective as coded, on top of the objective of ``base``, any method that makes pseudo-labels:

    L = L_base + fixclr_weight mean_i log sum_{j in N_i} exp(z_i . z_j / fixclr_temperature)

over a set of rows: the strong views of the unlabelled images that the base trains on (of weight above 1/2),
with their pseudo-labels, and the weak views of labelled images (``fixclr_labelled``); the base passed both.
Beside a base that sums over the D domains (variant "ssdg"), the term has D times this weight.
z, of unit length, is a projection of the features: linear (F, F), ReLU, linear (F, 128); or the features
themselves. N_i are the rows of another class, of all domains, other domains or i's own
(``fixclr_negatives``); the mean is over the rows i with any.
Source: the abstract ("class information from pseudo-labels", "only a repelling term").
Differs from the paper: unknown. Features, temperature, weight, views and the choice of negatives are ours.
Tried: points over FixMatch on the targets of RotatedDigits, mean and standard error of six pairs of runs. The
features themselves -0.1 (0.4), -5.4 (2.5), -44.8 (3.2) with weights 0.01, 0.1, 1; their projection +0.6
(0.5), +1.2 (0.9), +1.7 (1.5); with weight 1, other domains +2.5 (1.1), own domain -0.3 (0.5), temperature
0.1 -7.2 (1.2); ERM +2.3 (1.9). The command: dgbench.sweep launch --algorithms FixCLR --datasets RotatedDigits
--task semi_supervised --envs 0 75 --labels_per_class 5 --steps 300 --checkpoint_freq 300 --hparams
'{"batch_size": 16, ...}'; last checkpoint.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import Choice, Declared, LogUniform, Option
from ..losses.repelling import NEGATIVES, repelling
from ..networks.heads import projector
from .fixmatch import FixMatch

BASES = (
    *("FixMatch", "FlexMatch", "FreeMatch", "SoftMatch"),
    *("DeFixMatch", "DebiasPL", "MeanTeacher", "StyleMatch"),
)
OWN: Declared = {
    "fixclr_weight": (1.0, LogUniform(-1, 1)),
    "fixclr_temperature": (0.5, Choice((0.1, 0.2, 0.5))),
    "fixclr_negatives": ("cross", Option(NEGATIVES)),
    "fixclr_features": ("projection", Option(("projection", "backbone"))),
    "fixclr_labelled": (True, None),
}


class FixCLR(FixMatch):
    """A method with pseudo-labels, and features of different classes pushed apart across the domains."""

    hparams = {**FixMatch.hparams, **OWN, "base": ("FixMatch", Option(BASES))}
    tasks = ("semi_supervised",)
    min_domains = 2
    erm_when = {"unlabelled_weight": 0.0, "fixclr_weight": 0.0}

    @classmethod
    def specialised(cls, chosen: Mapping[str, Any]) -> type[Algorithm]:
        base = chosen.get("base", "FixMatch")
        return _over(base) if base in BASES[1:] and cls is FixCLR else cls

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        assert hp["base"] == self.hparams["base"][0], "the class is that of ``specialised``"
        projected = hp["fixclr_features"] == "projection"
        self.head = projector(self.featurizer.n_outputs, 128) if projected else nn.Identity()

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        seen = self.see(batch)
        total, logs, targets = self.objective(seen)
        kept = targets.weights > 0.5
        if self.ssdg:  # has its labelled images among the unlabelled ones
            assert seen.batch.uidx is not None
            kept = kept & (seen.batch.uidx >= 0)
        rows = [(seen.z2, targets.labels, seen.batch.ud, kept)]
        if self.hp["fixclr_labelled"]:
            rows.append((seen.z, batch.y, batch.d, torch.ones_like(batch.y, dtype=torch.bool)))
        z, y, d, kept = (torch.cat(parts) for parts in zip(*rows, strict=True))
        push = repelling(self.head(z), y, d, kept, self.hp["fixclr_temperature"], self.hp["fixclr_negatives"])
        return total + self.parts * self.hp["fixclr_weight"] * push, {**logs, "repelling": push}


@cache
def _over(base: str) -> type[Algorithm]:
    """FixCLR on top of another method: its ``super()`` is that method, whose hyper-parameters it also has."""
    method: Any = registry.find("algorithms", base)
    erm_when = method.erm_when and {**method.erm_when, "fixclr_weight": 0.0}
    members = {
        "hparams": {**method.hparams, **OWN, "base": (base, Option(BASES))},
        "hparams_on": method.hparams_on,
        "erm_when": erm_when,
        "__module__": __name__,
        "__doc__": FixCLR.__doc__,
    }
    return type("FixCLR", (FixCLR, method), members)
