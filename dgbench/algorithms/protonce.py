"""ProtoNCE: Prototypical Contrastive Learning of Unsupervised Representations (Li et al., ICLR 2021).

arXiv 2005.04966, equations 10-12.
Objective as coded, on the images of both domains alike: q_i (d,) the query network's unit embedding of one
view, k_i that of the momentum network of another view, Q a queue of the last ``queue`` keys (at most half as
many as there are images), t = temperature, c, phi unit centroids and temperatures of clusters of all images:

    L = mean_i -log( exp(q_i . k_i / t) / (exp(q_i . k_i / t) + sum_{j in Q} exp(q_i . Q_j / t)) )
      + proto_weight * mean over clusterings of mean_i -log softmax_u(q_i . c_u / phi_u) at i's own cluster

One clustering for each K in ``cluster_factors`` times the classes; phi_u is the mean distance to the
cluster's mean / log(n_u + 10), the largest of all for clusters below two images, cut off at the 10th and the
90th percentile and scaled to the mean t. The first ``warm_up`` (share) of the epochs has no second term.
``negatives`` "batch": the official columns, in which rows of one cluster are each other's negatives.
Source: PCL (salesforce), pcl/builder.py, main_pcl.py; its first term is MoCo's (He et al., CVPR 2020).
Differs from the paper: phi is cut off and that of small clusters replaced, as in the official code. That code
draws some other clusters as negatives, here all are used, as there are few; 25,000 to 100,000 clusters for
ImageNet there. Evaluation reads the query network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..clustering import LIBRARIES, kmeans
from ..hparams import RETRIEVAL, RETRIEVAL_SCRATCH, Option, on_small_images
from ..losses.clusters import batch_prototype_contrast, pcl_density, prototype_contrast
from ..losses.memory import unit
from ..losses.sets import starts
from ..networks import projection
from ..networks.ema import EMATeacher
from ..networks.memory import Clusters, embeddings

PROTOTYPES = {"all": prototype_contrast, "batch": batch_prototype_contrast}


class ProtoNCE(Algorithm):
    """Two views of an image agree, and images agree with the prototype of their cluster."""

    hparams = {
        **RETRIEVAL,
        "out_dim": (128, None),
        "temperature": (0.2, None),
        "key_momentum": (0.999, None),
        "queue": (16384, None),
        "proto_weight": (1.0, None),
        "warm_up": (0.1, None),
        "cluster_factors": ([1, 2, 4], None),
        "negatives": ("all", Option(tuple(PROTOTYPES))),
        "clustering": (LIBRARIES[0], Option(LIBRARIES)),
    }
    hparams_on = on_small_images(RETRIEVAL_SCRATCH)
    own_classifier = True
    tasks = ("retrieval",)
    needs = ("unlabelled", "two")
    clusters: Sequence[Clusters]
    queue: Tensor
    first: Tensor

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.classifier = projection(problem, self.featurizer.n_outputs, hp["out_dim"])
        self.key = EMATeacher(self.query, hp["key_momentum"])
        images, sizes = sum(problem.unlabelled_sizes), torch.tensor(problem.unlabelled_sizes)
        self.register_buffer("first", starts(sizes))  # of each domain's images among all
        self.register_buffer("queue", normalize(torch.randn(min(hp["queue"], images // 2), hp["out_dim"])))
        self.clusters = nn.ModuleList(  # type: ignore[assignment]
            Clusters(1, k * problem.num_classes, images, hp["out_dim"]) for k in hp["cluster_factors"]
        )

    @property
    def query(self) -> nn.Module:
        """The network that is trained."""
        return nn.Sequential(self.featurizer, self.classifier)

    @property
    def clustered(self) -> bool:
        """Whether the warm-up is over, at the start of this epoch."""
        return self.epoch_began >= self.hp["warm_up"] * self.problem.num_steps

    def begin_epoch(self, pools: Sequence[Any]) -> None:
        if not self.clustered:
            return
        f = torch.cat([embeddings(self.key, pool) for pool in pools])
        for found in self.clusters:
            centroids, labels = kmeans(f, found.k, library=self.hp["clustering"])
            found.set(centroids, labels, pcl_density(f, centroids, labels, self.hp["temperature"]))

    def update(self, batch: Batch) -> Logs:
        assert batch.u is not None and batch.u2 is not None and batch.uidx is not None
        self.key.move(self.query, self.step)
        q, k = (unit(net(x)) for net, x in ((self, batch.u), (self.key, batch.u2)))
        logs = self.learn(*self.objective(q, k, batch.uidx + self.first[batch.ud]))
        self.enqueue(k)
        return logs

    def objective(self, q: Tensor, k: Tensor, index: Tensor) -> tuple[Tensor, Logs]:
        """The loss of queries and keys (n, d) of the images ``index`` (n,) among all."""
        t, contrast = self.hp["temperature"], PROTOTYPES[self.hp["negatives"]]
        logits = torch.cat(((q * k).sum(1, keepdim=True), q @ self.queue.T), 1) / t
        info = cross_entropy(logits, torch.zeros_like(index))
        proto = q.new_zeros(())
        if self.clustered:
            found = [contrast(q, c.centroids[0], c.labels[0][index], c.density[0]) for c in self.clusters]
            proto = torch.stack(found).mean()
        return info + self.hp["proto_weight"] * proto, {"info": info, "proto": proto}

    @torch.no_grad()
    def enqueue(self, k: Tensor) -> None:
        """Keys (n, d) take the place of the oldest."""
        self.queue.copy_(torch.cat((self.queue, k))[len(k) :])
