"""MTL: Domain Generalization by Marginal Transfer Learning (Blanchard et al., JMLR 2021).

arXiv 1711.07910, section 5.
Objective as coded, with z = featurizer(x) (N, F), D domains and m_d (F,) the moving average of a domain's
mean feature (zero at the start),

    m_d <- mtl_ema * mean_{i in d} z_i + (1 - mtl_ema) * m_d
    L = sum_d mean_{i in d} CE(classifier([z_i ; e_i]), y_i)

``mtl_embedding`` "noise": e_i ~ N(0, I) for each row, in training and in evaluation, so m_d is computed but
has no effect; "ema": e_i = m_d, differentiated by this batch's mean, and in evaluation the mean feature of
the batch that is evaluated.
Source: DomainBed, algorithms.py, class MTL, which overwrites the embedding with noise.
Differs from the paper: there the embedding of a domain is a kernel mean, with a kernel classifier; the sum
over domains is a mean.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import networks
from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs, Problem
from ..hparams import Choice, Option


class MTL(Algorithm):
    """Cross-entropy of a classifier that also sees an embedding of the domain."""

    hparams = {
        "mtl_ema": (0.99, Choice((0.5, 0.9, 0.99, 1.0))),
        "mtl_embedding": ("noise", Option(("noise", "ema"))),
    }
    tasks = MULTI_SOURCE
    quirks = {"batch": "the embedding is noise, or the mean feature of the batch"}

    embeddings: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        n = self.featurizer.n_outputs
        self.classifier = networks.classifier(2 * n, problem.num_classes, hp["nonlinear_classifier"])
        self.register_buffer("embeddings", torch.zeros(problem.num_domains, n))  # m

    def forward(self, x: Tensor) -> Tensor:
        z = self.features(x)
        return self._classify(z, z.mean(0).expand_as(z))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        z = self.apart(self.features, batch.x, batch.num_domains)
        means, ema = batch.per_domain(z).mean(1), self.hp["mtl_ema"]
        embeddings = ema * means + (1 - ema) * self.embeddings
        self.embeddings.copy_(embeddings.detach())
        ce = cross_entropy(self._classify(z, embeddings[batch.d]), batch.y)
        return batch.num_domains * ce, {"ce": ce}  # all domains have the same number of rows

    def _classify(self, z: Tensor, embedding: Tensor) -> Tensor:
        """z, embedding (N, F) -> logits."""
        if self.hp["mtl_embedding"] == "noise":
            embedding = torch.randn_like(z)
        return self.classifier(torch.cat([z, embedding], 1))
