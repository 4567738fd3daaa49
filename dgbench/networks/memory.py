"""What is remembered of the images of a pool: a unit vector each, and their clusters; features of a pool."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..losses.memory import unit


class MemoryBank(nn.Module):
    """rows (N, d): what a method remembers of each image of a pool; a buffer, so the checkpoint holds it.

    At first uniform in +-1 / sqrt(d / 3) (instance discrimination; Wu et al., CVPR 2018).
    """

    rows: Tensor

    def __init__(self, images: int, d: int) -> None:
        super().__init__()
        bound = (3 / d) ** 0.5
        self.register_buffer("rows", torch.rand(images, d) * 2 * bound - bound)

    @torch.no_grad()
    def write(self, index: Tensor, f: Tensor, momentum: float = 0.0) -> None:
        """rows[index] <- momentum rows[index] + (1 - momentum) f, of unit length; the first of equal indices
        counts, so that the result does not depend on the order in which a device writes."""
        first = (index[:, None] == index).int().argmax(1)
        moved = torch.lerp(f.to(self.rows.dtype), self.rows[index], momentum)[first]
        self.rows[index] = normalize(moved) if momentum else moved

    @torch.no_grad()
    def fill(self, f: Tensor) -> None:
        """Every row at once, from f (N, d)."""
        self.rows.copy_(f)


class Clusters(nn.Module):
    """The clusters of a pool by R runs of k-means, as buffers: the checkpoint holds them.

    centroids (R, K, d) of unit length, labels (R, N), density (R, K): the temperatures of the clusters.
    """

    centroids: Tensor
    labels: Tensor
    density: Tensor

    def __init__(self, runs: int, k: int, images: int, d: int) -> None:
        """k: K, at most the number of images."""
        super().__init__()
        self.k, self.runs = min(k, images), runs
        self.register_buffer("centroids", torch.zeros(runs, self.k, d))
        self.register_buffer("labels", torch.zeros(runs, images, dtype=torch.int64))
        self.register_buffer("density", torch.ones(runs, self.k))

    @torch.no_grad()
    def set(self, centroids: Tensor, labels: Tensor, density: Tensor | None = None) -> None:
        """New clusters; centroids are made unit length."""
        self.centroids.copy_(normalize(centroids, dim=-1))
        self.labels.copy_(labels)
        if density is not None:
            self.density.copy_(density)


@dataclass
class Memo:
    """The embeddings of a pool by a network, from an evaluation; an update of the run forgets them.

    writes: how often the network's tensors were written to, so that weights that are only put in for a while
    (averaged ones) leave nothing. Fused optimizers are not counted there.
    """

    network: nn.Module
    writes: int
    f: Tensor


def writes(network: nn.Module) -> int:
    """In-place changes of the network's tensors so far."""
    return sum(x._version for x in (*network.parameters(), *network.buffers()))


@torch.no_grad()
def embeddings(network: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """Unit vectors (N, d) of a pool's images in order; the network is put in evaluation mode and back.

    A pool with a ``memo`` (``loaders.EpochPool``) of the same weights is not read again: an evaluation and
    the clustering after it share one pass.
    """
    memo: Memo | None = getattr(images, "memo", None)
    if memo is not None and memo.network is network and memo.writes == writes(network):
        return memo.f
    training = network.training
    network.eval()
    found = torch.cat([unit(network(x)) for x in images])
    network.train(training)
    return found
