"""Split -> batches. A training batch is a pure function of (seed, step): no sampler holds any state.

Domain i of step t draws from its own generator, seeded by (seed, stream, environment, t). Rows are drawn
with replacement, as DomainBed draws them, or in epochs: batch t is the rows t*B to (t+1)*B of an endless
sequence of permutations of the pool, each drawn from (seed, stream, environment, epoch). A view's
parameters are one row of uniforms per image, so they depend on (seed, environment, step, row) alone,
whatever the device and the number of workers.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .ahead import Ahead
from .algorithm import Batch
from .tasks import Pool, Split
from .views import VIEWS, Normalize, View

ROWS, AUGMENT, EPOCHS = range(3)  # streams of random numbers
SAMPLINGS = ("replacement", "epochs")
EVALUATION_PIXELS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels of one evaluation batch; larger ones leave a processor's cache, and need more memory."""


class Loader:
    """Endless training batches of B rows per source domain, and evaluation batches of any pool."""

    def __init__(
        self,
        pools: Sequence[Pool],
        batch_size: int,
        seed: int,
        view: str,
        size: int,
        mean_std: tuple[Sequence[float], Sequence[float]] | None,
        class_balanced: bool,
        device: torch.device,
        workers: int = 0,
        sampling: str = "replacement",
    ) -> None:
        """size: pixels of a view's side. mean_std: per channel, after scaling to [0, 1]; None leaves it.

        class_balanced: classes equally likely, always with replacement. sampling: one of ``SAMPLINGS``.
        workers: processes that prepare coming batches on the CPU; 0: in line.
        """
        self.device = device
        self.size, self.normalize = size, None if mean_std is None else Normalize(*mean_std)
        self.stream = Stream(
            pools, batch_size, seed, VIEWS[view], size, self.normalize, class_balanced, device, sampling
        )
        self.prepared = Ahead(self.stream.prepared, workers) if workers else self.stream.prepared
        self.domain_of_row = torch.arange(len(pools), device=device).repeat_interleave(batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of an update; N = D * B rows, domain-major."""
        rows, pools = self.stream.rows(step), self.stream.pools
        labels = np.concatenate([_labels(p)[r] for p, r in zip(pools, rows, strict=True)])
        return Batch(
            x=self.stream.on_device(self.prepared(step), step, rows),
            y=torch.from_numpy(labels).to(self.device),
            d=self.domain_of_row,
            idx=torch.from_numpy(np.concatenate(rows)).to(self.device),
            num_domains=len(pools),
        )

    def evaluation(self, pool: Pool) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of all images of a pool in order, in the evaluation view."""
        labels = torch.from_numpy(_labels(pool)).to(self.device)
        start = 0
        for x in self.images(pool):
            yield x, labels[start : start + len(x)]
            start += len(x)

    def images(self, pool: Pool) -> Iterator[Tensor]:
        """x (n, C, H, W) of all images of a pool in order, in the evaluation view."""
        height, width = pool.domain.images.shape[1:3]
        count = EVALUATION_PIXELS.get(self.device.type, 2**22) // (height * width)
        count = max(16, count - count % 64)
        for start in range(0, len(pool), count):
            rows = pool.indices[start : start + count]
            images = gather([(pool, slice(start, start + count))]).to(self.device)
            yield VIEWS["none"](images, torch.empty(len(rows), 0), self.size, None, self.normalize)

    def epoch_pools(self, split: Split) -> list["EpochPool"]:
        """What ``Algorithm.begin_epoch`` may look at: the training images, without labels."""
        return [EpochPool(self, pool) for pool in (*split.labelled, *split.unlabelled)]


@dataclass(frozen=True)
class Stream:
    """What each step draws from some pools: a pure function of the step, also in another process."""

    pools: Sequence[Pool]
    batch_size: int
    seed: int
    view: View
    size: int
    normalize: Normalize | None
    class_balanced: bool
    device: torch.device
    sampling: str = "replacement"
    _orders: dict[int, tuple[int, np.ndarray]] = field(
        default_factory=dict
    )  # pool -> its last (epoch, order)

    @cached_property
    def _cumulative(self) -> list[np.ndarray | None]:
        return [_class_weights(pool) if self.class_balanced else None for pool in self.pools]

    def rows(self, step: int) -> list[np.ndarray]:
        """Indices (B,) in each pool."""
        return [self._rows(i, step) for i in range(len(self.pools))]

    def _rows(self, i: int, step: int) -> np.ndarray:
        cumulative = self._cumulative[i]
        if self.sampling == "epochs" and cumulative is None:
            return self._rows_of_epochs(i, step)
        draw = self._generator(ROWS, i, step)
        if cumulative is None:
            return draw.integers(len(self.pools[i]), size=self.batch_size)
        return np.searchsorted(cumulative, draw.random(self.batch_size), side="right")

    def _rows_of_epochs(self, i: int, step: int) -> np.ndarray:
        at = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(at, len(self.pools[i]))
        return np.concatenate([self._order(i, e)[places[epochs == e]] for e in np.unique(epochs).tolist()])

    def _order(self, i: int, epoch: int) -> np.ndarray:
        """The permutation of an epoch, a function of its number; the last one is kept, it takes a while."""
        known, order = self._orders.get(i, (None, None))
        if known != epoch or order is None:
            order = self._generator(EPOCHS, i, epoch).permutation(len(self.pools[i]))
            self._orders[i] = (epoch, order)
        return order

    def prepared(self, step: int) -> Tensor:
        """What the CPU does: the images (N, C, H, W) in the view, or those that another device puts in it."""
        rows = self.rows(step)
        images = gather(list(zip(self.pools, rows, strict=True)))
        return self._viewed(images, step, rows) if self.device.type == "cpu" else images

    def on_device(self, prepared: Tensor, step: int, rows: Sequence[np.ndarray]) -> Tensor:
        """The images (N, C, H, W) in the view, on the device, from what ``prepared`` gave."""
        if self.device.type == "cpu":
            return prepared
        return self._viewed(prepared.to(self.device, non_blocking=True), step, rows)

    def _viewed(self, images: Tensor, step: int, rows: Sequence[np.ndarray]) -> Tensor:
        uniforms = [
            self._generator(AUGMENT, i, step).random((len(r), self.view.draws)) for i, r in enumerate(rows)
        ]
        sizes = None
        if all(pool.domain.sizes is not None for pool in self.pools):
            sizes = torch.from_numpy(
                np.concatenate([_sizes(p)[r] for p, r in zip(self.pools, rows, strict=True)])
            )
        return self.view(images, torch.from_numpy(np.concatenate(uniforms)), self.size, sizes, self.normalize)

    def _generator(self, stream: int, i: int, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, self.pools[i].env, step))


@dataclass(frozen=True)
class EpochPool:
    """A training pool's images in order, in the evaluation view: yields x (n, C, H, W) batch by batch."""

    loader: Loader
    pool: Pool

    def __len__(self) -> int:
        return len(self.pool)

    def __iter__(self) -> Iterator[Tensor]:
        return self.loader.images(self.pool)


def gather(parts: Sequence[tuple[Pool, np.ndarray | slice]]) -> Tensor:
    """The chosen images of each pool, one part after another: uint8 (N, H, W, C), in memory as planes."""
    rows = [pool.indices[chosen] for pool, chosen in parts]
    height, width, channels = parts[0][0].domain.images.shape[1:]
    out = np.empty((sum(map(len, rows)), channels, height, width), np.uint8)
    start = 0
    for (pool, _), own in zip(parts, rows, strict=True):
        images, target = pool.domain.images, out[start : start + len(own)]
        if isinstance(images, np.ndarray) and images.transpose(0, 3, 1, 2).flags.c_contiguous:
            np.take(images.transpose(0, 3, 1, 2), own, axis=0, out=target, mode="clip")  # no buffer between
        else:
            target[:] = images[own].transpose(0, 3, 1, 2)
        _release(images)
        start += len(own)
    return torch.from_numpy(out).permute(0, 2, 3, 1)


def _release(images: np.ndarray) -> None:
    """Pages of a memory map that were read no longer count as this process's; the system keeps them."""
    pages = getattr(images, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def _labels(pool: Pool) -> np.ndarray:
    assert pool.labels is not None, "a labelled pool is needed here"
    return pool.labels


def _sizes(pool: Pool) -> np.ndarray:
    assert pool.domain.sizes is not None
    return pool.domain.sizes[pool.indices]


def _class_weights(pool: Pool) -> np.ndarray:
    """Cumulative probabilities (n,) under which every class present is equally likely."""
    labels = _labels(pool)
    counts = np.bincount(labels)
    weights = np.cumsum(1.0 / counts[labels])
    return weights / weights[-1]
