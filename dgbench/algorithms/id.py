"""ID: Unsupervised Feature Learning via Non-Parametric Instance Discrimination (Wu et al., CVPR 2018).

arXiv 1805.01978, equations 2, 4-7.
Objective as coded, f_i = linear(featurizer(u_i)) of unit length (d,), M (N, d) a memory of every image of the
same bank, s_ij = f_i . M_j / temperature, M_i the row of image i as earlier steps left it:

    L = mean over banks of mean_i -log softmax_j(s_ij) at j = i

After the step M_i <- normalised(memory_momentum M_i + (1 - memory_momentum) f_i). ``banks``: one per domain,
or one for both. ``negatives`` K > 0 estimates the softmax by noise-contrastive estimation with K random rows
(``losses/memory.py``), whose normaliser is set by the first batch.
Source: lemniscate.pytorch (the authors'), lib/LinearAverage.py, NCEAverage.py, NCECriterion.py.
Differs from the paper: no proximal regularisation, as there; one bank per domain by default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import RETRIEVAL, RETRIEVAL_SCRATCH, Choice, Option, Uniform, on_small_images
from ..losses.memory import instance_discrimination, noise_contrastive, normaliser, unit
from ..losses.sets import starts
from ..networks.memory import MemoryBank


class ID(Algorithm):
    """Every image is a class of its own."""

    hparams = {
        **RETRIEVAL,
        "out_dim": (128, None),
        "temperature": (0.07, Choice((0.05, 0.07, 0.1, 0.2))),
        "memory_momentum": (0.5, Uniform(0.0, 0.9)),
        "banks": ("domain", Option(("domain", "joint"))),
        "negatives": (0, None),
    }
    hparams_on = on_small_images(RETRIEVAL_SCRATCH)
    own_classifier = True
    tasks = ("retrieval",)
    needs = ("unlabelled",)
    banks: Sequence[MemoryBank]
    first: Tensor
    z: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.classifier = nn.Linear(self.featurizer.n_outputs, hp["out_dim"])
        joint = hp.get("banks") == "joint"
        first = starts(torch.tensor(problem.unlabelled_sizes)) * joint
        self.register_buffer("first", first)  # of each domain's rows in its bank
        counts = [sum(problem.unlabelled_sizes)] if joint else problem.unlabelled_sizes
        self.banks = nn.ModuleList(MemoryBank(n, hp["out_dim"]) for n in counts)  # type: ignore[assignment]
        self.register_buffer("z", torch.zeros(len(self.banks)))

    def update(self, batch: Batch) -> Logs:
        assert batch.u is not None and batch.ud is not None and batch.uidx is not None
        f = unit(self(batch.u)).view(len(self.banks), -1, self.hp["out_dim"])
        index = (batch.uidx + self.first[batch.ud]).view(len(self.banks), -1)
        logs = self.learn(*self.objective(f, index))
        for bank, rows, own in zip(self.banks, index, f.detach(), strict=True):
            bank.write(rows, own, self.hp["memory_momentum"])
        return logs

    def objective(self, f: Tensor, index: Tensor) -> tuple[Tensor, Logs]:
        """The loss of embeddings f (banks, n, d) of the images ``index`` (banks, n)."""
        own = self.instance_loss if self.hp["negatives"] == 0 else self.noise_loss
        return torch.stack([own(i, f[i], index[i]) for i in range(len(self.banks))]).mean(), {}

    def instance_loss(self, i: int, f: Tensor, index: Tensor) -> Tensor:
        """The softmax over bank i."""
        return instance_discrimination(f, self.rows[i], index, self.hp["temperature"])

    def noise_loss(self, i: int, f: Tensor, index: Tensor) -> Tensor:
        """Its estimate from random rows of bank i."""
        bank, temperature = self.rows[i], self.hp["temperature"]
        noise = torch.randint(len(bank), (len(f), self.hp["negatives"]), device=f.device)
        if self.step == 0:
            z = normaliser(f.detach(), bank, index, noise, temperature)
            self.z[i] = torch.where(self.z[i] == 0, z, self.z[i])
        return noise_contrastive(f, bank, index, noise, temperature, self.z[i].clone())

    @property
    def rows(self) -> Sequence[Tensor]:
        """The memories (N, d)."""
        return [bank.rows for bank in self.banks]
