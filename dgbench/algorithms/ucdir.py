"""UCDIR: Feature Representation Learning for Unsupervised Cross-domain Image Retrieval (Hu and Lee, ECCV 2022).

arXiv 2207.09721, equations 1-11.
Objective as coded, n images of each of two domains; q_i (d,) the query network's unit embedding of one view,
k_i that of the momentum network of another; S the domain's memory, S_i = k_i; t = temperature; c unit
centroids of k-means of the domain's key features, one per class; y_i the cluster of image i, P_i the images
of that cluster:

    L     = 1/2 sum over domains of (IW + l CW) + se_weight SE + dd_weight DD
    IW    = 1/n sum_i -log softmax_j(q_i . S_j / t) at j = i
    CW    = mean over the kept i of -1/|P_i| sum_{p in P_i} log softmax_j(q_i . S_j / t) at p
    SE    = mean over both domains' q and both domains' c of H(softmax_u(q_i . c_u / se_temperature))
    DD    = mean over both domains' q of 1/n sum_i sum_j (D^A_ij - D^B_ij + 1e-6)^2,
            D^X_ij = 1 - cos(p^X_i, p^X_j),  p^X_i = softmax_u(q_i . c^X_u / dd_temperature)

i is kept where softmax_u(k_i . c_u / t) at y_i exceeds ``filter_threshold`` (0: all are). An update moves the
momentum network (to the parameters that the last step left), writes the keys into S, then descends L. The
first ``warm_up`` (share) of a run's epochs has IW alone; l rises from 0 there to cw_weight at ``ramp_end``;
SE and DD begin at ``align_from``. Clusters are made at each epoch's start. The momentum network is evaluated.
Source: UCDIR, main.py and moco/builder.py, with scripts/officehome.sh and domainnet.sh.
Differs from the paper: the filter (0 is the paper); batch means, and their mean over the domains, instead of
sums over all images; DD squares and has its own temperature; SE and DD begin at half of the run; the
k-means is scikit-learn's where the official code has faiss's; with pretrained weights batch norm is frozen
unless ``--freeze_bn false``, the official code's, by which alone the keys have statistics of their own. The
schedule is in shares of the run, of 200 epochs there.
"""  # noqa: E501

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..clustering import LIBRARIES, kmeans
from ..hparams import RETRIEVAL, RETRIEVAL_SCRATCH, Choice, LogUniform, Option, on_small_images
from ..losses.clusters import cluster_contrast, distance_of_distance
from ..losses.memory import instance_discrimination, similarities, softmax_entropy, unit
from ..networks import projection
from ..networks.ema import EMATeacher
from ..networks.memory import Clusters, MemoryBank, embeddings
from ..networks.split_norm import split_batch_norms


class UCDIR(Algorithm):
    """Contrast of instances and of clusters in each domain; both domains' clusters order images alike."""

    hparams = {
        **RETRIEVAL,
        "out_dim": (128, None),
        "temperature": (0.2, None),
        "key_momentum": (0.999, Choice((0.99, 0.996, 0.999))),
        "cw_weight": (0.5, LogUniform(-1, 0.5)),
        "se_weight": (1.0, LogUniform(-1, 0.5)),
        "dd_weight": (0.5, LogUniform(-1.5, 0)),
        "se_temperature": (0.01, Choice((0.01, 0.1))),
        "dd_temperature": (0.01, None),
        "filter_threshold": (0.2, None),
        "warm_up": (0.1, None),
        "ramp_end": (0.5, None),
        "align_from": (0.5, None),
        "clustering": (LIBRARIES[0], Option(LIBRARIES)),
    }
    hparams_on = {
        **on_small_images(RETRIEVAL_SCRATCH),
        "DomainNet7": {
            "cw_weight": (1.0, LogUniform(-1, 0.5)),
            "se_weight": (0.5, LogUniform(-1, 0.5)),
            "dd_weight": (0.1, LogUniform(-1.5, 0)),
            "se_temperature": (0.1, Choice((0.01, 0.1))),
        },
    }
    own_classifier = True
    tasks = ("retrieval",)
    needs = ("unlabelled", "two")
    banks: Sequence[MemoryBank]
    clusters: Sequence[Clusters]

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.classifier = projection(problem, self.featurizer.n_outputs, hp["out_dim"])
        self.key = EMATeacher(self.query, hp["key_momentum"])
        split_batch_norms(self.key)
        sizes, d = problem.unlabelled_sizes, hp["out_dim"]
        self.banks = nn.ModuleList(MemoryBank(n, d) for n in sizes)  # type: ignore[assignment]
        self.clusters = nn.ModuleList(Clusters(1, problem.num_classes, n, d) for n in sizes)  # type: ignore[assignment]

    @property
    def query(self) -> nn.Module:
        """The network that is trained."""
        return nn.Sequential(self.featurizer, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.key(x)

    @property
    def progress(self) -> float:
        """The share of the run that is over at the start of this epoch."""
        return self.epoch_began / self.problem.num_steps

    def weights(self) -> dict[str, float]:
        """{"cw", "se", "dd"} of this epoch."""
        hp, now = self.hp, self.progress
        start, end = hp["warm_up"], hp["ramp_end"]
        ramp = 0.0 if now <= start else 1.0 if now >= end else (now - start) / (end - start)
        aligned = now >= hp["align_from"]
        return {"cw": hp["cw_weight"] * ramp} | {k: hp[f"{k}_weight"] * aligned for k in ("se", "dd")}

    def begin_epoch(self, pools: Sequence[Any]) -> None:
        first, clustered = self.step == 0, self.progress >= self.hp["warm_up"]
        if not first and not clustered:
            return
        features = [embeddings(self, pool) for pool in pools]  # all, before a buffer is written
        for bank, found, f in zip(self.banks, self.clusters, features, strict=True):
            if first:
                bank.fill(f)
            if clustered:
                found.set(*kmeans(f, found.k, library=self.hp["clustering"]))

    def update(self, batch: Batch) -> Logs:
        assert batch.u2 is not None and batch.uidx is not None
        self.key.move(self.query, self.step)
        order = torch.randperm(len(batch.u2), device=batch.u2.device)  # the domains mixed, for the batch norm
        k = unit(self.key(batch.u2[order]))[order.argsort()]
        for bank, index, rows in zip(self.banks, *map(batch.per_unlabelled, (batch.uidx, k)), strict=True):
            bank.write(index, rows)
        return super().update(batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        assert batch.u is not None and batch.uidx is not None
        q = unit(self.classifier(self.features(batch.u)))
        return self.objective(batch.per_unlabelled(q), batch.per_unlabelled(batch.uidx))

    def objective(self, q: Tensor, index: Tensor) -> tuple[Tensor, Logs]:
        """The loss of queries q (2, n, d) of the images ``index`` (2, n), whose keys the memories hold."""
        t, weights = self.hp["temperature"], self.weights()
        c = [found.centroids[0] for found in self.clusters]
        terms = {name: [q.new_zeros(())] for name in weights}
        terms["iw"] = [instance_discrimination(q[i], self.banks[i].rows, index[i], t) for i in range(len(q))]
        if weights["cw"]:
            terms["cw"] = [self.cluster_loss(i, q[i], index[i]) for i in range(len(q))]
        if weights["se"]:
            tau = self.hp["se_temperature"]
            terms["se"] = [softmax_entropy(similarities(own, each, tau)) for own in q for each in c]
        if weights["dd"]:
            phi = self.hp["dd_temperature"]
            terms["dd"] = [distance_of_distance(own, a, b, phi) for own in q for a, b in combinations(c, 2)]
        means = {name: torch.stack(values).mean() for name, values in terms.items()}
        return means["iw"] + sum(weights[name] * means[name] for name in weights), means

    def cluster_loss(self, i: int, q: Tensor, index: Tensor) -> Tensor:
        """CW of domain i."""
        bank, labels = self.banks[i].rows, self.clusters[i].labels[0]
        return cluster_contrast(
            q, bank, labels[index], labels, self.certain(i, index), self.hp["temperature"]
        )

    def certain(self, i: int, index: Tensor) -> Tensor:
        """Which images (n,) of domain i have a key that is sure enough of its cluster."""
        k, found = self.banks[i].rows[index], self.clusters[i]
        p = similarities(k, found.centroids[0], self.hp["temperature"]).softmax(1)
        return p.gather(1, found.labels[0][index, None])[:, 0] > self.hp["filter_threshold"]
