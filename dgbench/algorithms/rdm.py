"""RDM: Domain Generalization via Risk Distribution Matching (Nguyen et al., WACV 2024).

arXiv 2310.18598, the form that aligns the worst domain.
Objective as coded, l (N,) the rows' cross-entropies, R_e their mean over source domain e, D domains:

    L = 1/D sum_e R_e + w_m MMD(l_worst, l) + w_v (Var(l) + Var(l_worst))
    worst = argmax_e R_e;    Var unbiased;    MMD of class MMD with g in {1e-4, 1e-3, ..., 1e3}
    w_m = w_v = 0 before update rdm_penalty_anneal_iters, then rdm_lambda and variance_weight; Adam starts
    anew there with the learning rate rdm_lr

Source: DomainBed, algorithms.py, class RDM.
Differs from the paper: the losses of all domains, the worst one included, stand for the mean distribution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import FOLDERS, Choice, Uniform
from ..losses.alignment import GAMMAS, mmd
from ..losses.sets import set_means, set_variances

NO_VARIANCE = {"variance_weight": (0.0, Choice((0.0,)))}
SMALL_BATCH = {"batch_size": (40, Uniform(30, 60, integer=True))}
LAMBDA_FROM_1 = {"rdm_lambda": (5.0, Uniform(1.0, 10.0))}


class RDM(Algorithm):
    """Risk, and the distance of the worst domain's losses to those of all."""

    hparams = {
        "rdm_lambda": (5.0, Uniform(0.1, 10.0)),
        "rdm_penalty_anneal_iters": (1500, Uniform(800, 2700, integer=True)),
        "variance_weight": (0.004, Uniform(0.001, 0.007)),
        "rdm_lr": (1.5e-5, Uniform(8e-6, 2e-5)),
    }
    hparams_on = {
        FOLDERS: {"batch_size": (88, Uniform(70, 100, integer=True))},
        "PACS": LAMBDA_FROM_1,
        "OfficeHome": NO_VARIANCE,
        "TerraIncognita": {**SMALL_BATCH, **NO_VARIANCE, **LAMBDA_FROM_1},
        "DomainNet": {
            **SMALL_BATCH,
            **NO_VARIANCE,
            "rdm_lambda": (0.5, Uniform(0.1, 1.0)),
            "rdm_penalty_anneal_iters": (2400, Uniform(1500, 3000, integer=True)),
        },
    }
    tasks = MULTI_SOURCE
    min_domains = 2
    erm_when = {"rdm_lambda": 0.0, "variance_weight": 0.0, "rdm_penalty_anneal_iters": 0}

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        first, then = self.hp["lr"], self.hp["rdm_lr"]
        late = self.step >= self.hp["rdm_penalty_anneal_iters"]
        return [self.optimizer(self.parameters(), lr=then if late else first)]

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        losses = cross_entropy(self(batch.x), batch.y, reduction="none")  # (N,)
        risks = set_means(losses, batch.members)  # (D,)
        worst = batch.d == risks.argmax()
        sets = torch.stack([worst, torch.ones_like(worst)])  # (2, N)
        matching = mmd(losses[:, None], sets, (1e-4, *GAMMAS))[0, 1]
        variance = set_variances(losses[:, None], sets).sum()
        loss = risks.mean() + self.annealed("rdm_lambda", "rdm_penalty_anneal_iters") * matching
        loss = loss + self.annealed("variance_weight", "rdm_penalty_anneal_iters") * variance
        return loss, {"nll": risks.mean(), "matching_penalty": matching, "variance_penalty": variance}
