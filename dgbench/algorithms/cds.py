"""CDS: Cross-Domain Self-Supervised Pre-training (Kim et al., ICCV 2021).

No arXiv id of this version (2003.08264 is the first); equations 2-5.
Objective as coded, f_i = linear(featurizer(u_i)) of unit length (d,), M^A, M^B the domains' memories:

    L    = 1/2 (ID_A + ID_B) + matching_weight (H_AB + H_BA)
    ID_A = mean_i -log softmax_j(f_i . M^A_j / t) at j = i
    H_AB = mean_i sum_j -p_ij log(p_ij + 1e-5)

with p_i the softmax over the ``neighbours`` largest of f_i . M^B_j / t. After the step
M_i <- normalised(memory_momentum M_i + (1 - memory_momentum) f_i); at first, M is the initial network's.
Source: CDS_pretraining, custom_function/selfsup.py and LinearAverage_2.py.
Differs from the paper: matching is not halved as the instance loss is (the official code computes the half
and adds the whole); only the nearest 700 neighbours enter; batches have as many images of either domain.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Logs
from ..hparams import RETRIEVAL, RETRIEVAL_SCRATCH, LogUniform, on_small_images
from ..losses.memory import matching_entropy
from ..networks.memory import embeddings
from .id import ID


class CDS(ID):
    """Every image is a class of its own in its domain, and close to few images of the other."""

    hparams = {
        **RETRIEVAL,
        "out_dim": (512, None),
        "temperature": (0.1, None),
        "memory_momentum": (0.5, None),
        "matching_weight": (1.0, LogUniform(-1, 1)),
        "neighbours": (700, None),
    }
    hparams_on = on_small_images(RETRIEVAL_SCRATCH)

    def begin_epoch(self, pools: Sequence[Any]) -> None:
        if self.step == 0:
            for bank, pool in zip(self.banks, pools, strict=True):
                bank.fill(embeddings(self, pool))

    def objective(self, f: Tensor, index: Tensor) -> tuple[Tensor, Logs]:
        own = [self.instance_loss(i, f[i], index[i]) for i in range(len(f))]
        settings = self.hp["temperature"], self.hp["neighbours"], 1e-5
        other = [matching_entropy(f[i], self.rows[j], *settings) for i, j in permutations(range(len(f)), 2)]
        instance, matching = torch.stack(own).mean(), torch.stack(other).sum()
        return instance + self.hp["matching_weight"] * matching, {"instance": instance, "matching": matching}
