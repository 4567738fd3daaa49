"""PCS: Prototypical Cross-domain Self-supervised Learning, without its labels (Yue et al., CVPR 2021).

arXiv 2103.16765, equations 1-6.
Objective as coded, f_i = linear(featurizer(u_i)) of unit length (d,), M the domains' memories, and per domain
``cluster_runs`` of spherical k-means on M for each K in ``cluster_factors`` times the classes, with centroids
c and the temperatures phi of clusters (mean distance to the centroid / log(n_u + 10), at least 0.05):

    L     = sum over domains of proto_weight PROTO + cross_weight CROSS
            + id_weight ID + matching_weight MATCH + mim_weight MIM
    PROTO = mean over runs and i of -log softmax_u(f_i . c_u / phi_u) at i's own cluster
    CROSS = mean over runs and i of H(softmax_u(f_i . c'_u / t)), c' of the other domain
    ID    = mean_i -log softmax_j(f_i . M_j / t) at j = i
    MATCH = mean_i H(softmax_j(f_i . M'_j / t)), M' of the other domain
    MIM   = -mean_i sum_c p_ic log(p_ic + 1e-5) + sum_c q_c log(m_c + 1e-5),    q = mean_i p_i,
            p_i = softmax_c(f_i . w_c / mim_temperature), w_c of unit length; m, without a gradient, the mean
            of all p_i so far, this batch's too, and of 1/C, which counts as many as an epoch has updates

After the step, M moves as in ``id.py``.
Source: PCS-FUDA, pcs/models/ssda.py, clustering.py, head.py, utils/torchutils.py.
Differs from the paper: no labelled images, so no classification loss and no update of the classifier by
prototypes; the classifier of MIM would be led by MIM alone, which is off, and so are ID and MATCH there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..algorithm import Logs, Problem
from ..clustering import spherical_kmeans
from ..hparams import RETRIEVAL, RETRIEVAL_SCRATCH, on_small_images
from ..losses.clusters import pcs_density, prototype_contrast
from ..losses.memory import matching_entropy, similarities, softmax_entropy
from ..networks.memory import Clusters, embeddings
from .id import ID


class PCS(ID):
    """Images gather at the prototypes of their own domain, and choose one of the other's."""

    hparams = {
        **RETRIEVAL,
        "out_dim": (512, None),
        "temperature": (0.1, None),
        "memory_momentum": (0.5, None),
        "proto_weight": (1.0, None),
        "cross_weight": (1.0, None),
        "id_weight": (0.0, None),
        "matching_weight": (0.0, None),
        "mim_weight": (0.0, None),
        "mim_temperature": (0.05, None),
        "cluster_factors": ([1, 2], None),
        "cluster_runs": (15, None),
        "cluster_density": (True, None),  # False: phi_u = temperature
    }
    hparams_on = on_small_images(RETRIEVAL_SCRATCH)
    clusters: Sequence[Sequence[Clusters]]  # by factor and domain
    mean: Tensor  # (domains, C) running means of the predictions
    counted: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        sizes, runs, classes = problem.unlabelled_sizes, hp["cluster_runs"], problem.num_classes
        self.clusters = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList(Clusters(runs, k * classes, n, hp["out_dim"]) for n in sizes)
            for k in hp["cluster_factors"]
        )
        self.mim_temperature = hp["mim_temperature"]
        if hp["mim_weight"]:
            self.prototypes = nn.Linear(hp["out_dim"], classes, bias=False)
            self.register_buffer("mean", torch.full((len(sizes), classes), 1 / classes))
            self.register_buffer("counted", torch.full((len(sizes),), float(problem.steps_per_epoch)))

    def begin_epoch(self, pools: Sequence[Any]) -> None:
        generator = torch.Generator().manual_seed(self.step)
        for i, (bank, pool) in enumerate(zip(self.rows, pools, strict=True)):
            if self.step == 0:
                bank.copy_(embeddings(self, pool))
            for found in (domains[i] for domains in self.clusters):
                centroids, labels = spherical_kmeans(bank, found.k, found.runs, generator)
                density = torch.full_like(found.density, self.hp["temperature"])
                if self.hp["cluster_density"]:
                    each = zip(centroids, labels, strict=True)
                    density = torch.stack([pcs_density(bank, c, own) for c, own in each])
                found.set(centroids, labels, density)

    def objective(self, f: Tensor, index: Tensor) -> tuple[Tensor, Logs]:
        found = [self.terms(i, f[i], index[i]) for i in range(len(f))]
        terms = {name: torch.stack([own[name] for own in found]).sum() for name in found[0]}
        weighted = [self.hp[f"{name}_weight"] * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), terms

    def terms(self, i: int, f: Tensor, index: Tensor) -> Logs:
        """The terms of domain i, of embeddings f (n, d) of the images ``index`` (n,)."""
        t, hp = self.hp["temperature"], self.hp
        others = [j for j in range(len(self.banks)) if j != i]
        own = [domains[i] for domains in self.clusters]
        proto = [prototype_contrast(f, c.centroids, c.labels[:, index], c.density) for c in own]
        cross = [
            softmax_entropy(similarities(f, domains[j].centroids, t))
            for domains in self.clusters
            for j in others
        ]
        found = {"proto": torch.stack(proto).mean(), "cross": torch.stack(cross).mean()}
        if hp["id_weight"]:
            found["id"] = self.instance_loss(i, f, index)
        if hp["matching_weight"]:
            matching = [matching_entropy(f, self.rows[j], t) for j in others]
            found["matching"] = torch.stack(matching).mean()
        if hp["mim_weight"]:
            found["mim"] = self.mutual_information(i, self.class_logits(f))
        return found

    def class_logits(self, f: Tensor) -> Tensor:
        """Of the classifier of MIM: (n, d) -> (n, C)."""
        return similarities(f, normalize(self.prototypes.weight), self.mim_temperature)

    def mutual_information(self, i: int, logits: Tensor) -> Tensor:
        """MIM of domain i for logits (n, C), whose mean prediction enters the running mean first."""
        p, n = logits.softmax(1).mean(0), len(logits)
        self.mean[i] = (self.mean[i] * self.counted[i] + p.detach() * n) / (self.counted[i] + n)
        self.counted[i] += n
        return (p * (self.mean[i] + 1e-5).log()).sum() + softmax_entropy(logits, 1e-5)
