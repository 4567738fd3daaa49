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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ahead import Ahead
from .algorithm import Batch
from .networks.memory import Memo
from .tasks import Pool, Split
from .views import VIEWS, Normalize

ROWS, AUGMENT, EPOCHS = range(3)  # streams of random numbers
SECOND, UNLABELLED = 3, 6  # added for the second view; for unlabelled images
SAMPLINGS = ("replacement", "epochs")
EVALUATION_PIXELS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels of one evaluation batch; larger ones leave a processor's cache, and need more memory."""


@dataclass(frozen=True)
class Draw:
    """What is drawn at each step: B rows of each pool, once for every view."""

    pools: Sequence[Pool]
    batch_size: int  # B, rows per pool
    views: Sequence[str]  # names in ``views.VIEWS``
    sampling: str = "replacement"  # one of ``SAMPLINGS``
    class_balanced: bool = False  # classes equally likely, always with replacement


class Loader:
    """Endless training batches, and evaluation batches of any pool."""

    def __init__(
        self,
        labelled: Draw,
        seed: int,
        size: int,
        mean_std: tuple[Sequence[float], Sequence[float]] | None,
        device: torch.device,
        workers: int = 0,
        unlabelled: Draw | None = None,
    ) -> None:
        """size: pixels of a view's side. mean_std: per channel, after scaling to [0, 1]; None leaves it.

        workers: processes that prepare coming batches on the CPU; 0: in line. A draw without pools gives
        batches without rows.
        """
        self.device, self.num_domains = device, len(labelled.pools)
        self.size, self.normalize = size, None if mean_std is None else Normalize(*mean_std)
        draws = {"labelled": labelled, "unlabelled": unlabelled}
        self.streams = {
            name: Stream(draw, seed, UNLABELLED * (name == "unlabelled"), size, self.normalize, device)
            for name, draw in draws.items()
            if draw and draw.pools
        }
        self.memos: dict[int, tuple[Pool, Memo]] = {}
        self.prepared = Ahead(self._prepare, workers) if workers else self._prepare

    def _prepare(self, step: int) -> Tensor:
        """What the CPU does for a step: the streams' images one after another."""
        parts = [stream.prepared(step) for stream in self.streams.values()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def batch(self, step: int) -> Batch:
        """The batch of an update."""
        streams = self.streams.values()
        parts = self.prepared(step).split([stream.prepared_rows for stream in streams])
        drawn = {
            name: stream.drawn(part, step)
            for (name, stream), part in zip(self.streams.items(), parts, strict=True)
        }
        unlabelled = drawn.get("unlabelled")
        found: dict[str, Any] = {}
        if unlabelled is not None:
            u, *u2 = unlabelled.views
            found = {"u": u, "u2": u2[0] if u2 else None, "ud": unlabelled.domain, "uidx": unlabelled.rows}
            found["num_unlabelled"] = len(self.streams["unlabelled"].draw.pools)
        if "labelled" not in drawn:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            return Batch(found["u"][:0], none, none, none, found["num_unlabelled"], **found)
        own = drawn["labelled"]
        x, *x2 = own.views
        return Batch(
            x, own.labels(), own.domain, own.rows, self.num_domains, x2=x2[0] if x2 else None, **found
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
        return [EpochPool(self, pool) for pool in split.training]


@dataclass(frozen=True)
class Drawn:
    """The rows of a step: images in each view, and where they come from."""

    stream: "Stream"
    views: list[Tensor]  # (N, C, H, W) each
    domain: Tensor  # (N,) int64, position of the pool
    own: list[np.ndarray]  # indices in each pool

    @property
    def rows(self) -> Tensor:
        """(N,) int64, index in the pool."""
        return torch.from_numpy(np.concatenate(self.own)).to(self.stream.device)

    def labels(self) -> Tensor:
        """(N,) int64."""
        pools = self.stream.draw.pools
        labels = np.concatenate([_labels(p)[r] for p, r in zip(pools, self.own, strict=True)])
        return torch.from_numpy(labels).to(self.stream.device)


@dataclass(frozen=True)
class Stream:
    """What each step draws from some pools: a pure function of the step, also in another process."""

    draw: Draw
    seed: int
    first: int  # of its streams of random numbers
    size: int
    normalize: Normalize | None
    device: torch.device
    _orders: dict[int, tuple[int, np.ndarray]] = field(
        default_factory=dict
    )  # pool -> its last (epoch, order)

    @cached_property
    def _cumulative(self) -> list[np.ndarray | None]:
        return [_class_weights(pool) if self.draw.class_balanced else None for pool in self.draw.pools]

    @cached_property
    def _domain(self) -> Tensor:
        return torch.arange(len(self.draw.pools), device=self.device).repeat_interleave(self.draw.batch_size)

    @property
    def prepared_rows(self) -> int:
        """Rows of ``prepared``: of every view on the CPU, of the images where another device views them."""
        views = len(self.draw.views) if self.device.type == "cpu" else 1
        return views * len(self.draw.pools) * self.draw.batch_size

    def rows(self, step: int) -> list[np.ndarray]:
        """Indices (B,) in each pool."""
        return [self._rows(i, step) for i in range(len(self.draw.pools))]

    def _rows(self, i: int, step: int) -> np.ndarray:
        cumulative = self._cumulative[i]
        if self.draw.sampling == "epochs" and cumulative is None:
            return self._rows_of_epochs(i, step)
        generator = self._generator(ROWS, i, step)
        if cumulative is None:
            return generator.integers(len(self.draw.pools[i]), size=self.draw.batch_size)
        return np.searchsorted(cumulative, generator.random(self.draw.batch_size), side="right")

    def _rows_of_epochs(self, i: int, step: int) -> np.ndarray:
        at = np.arange(step * self.draw.batch_size, (step + 1) * self.draw.batch_size)
        epochs, places = np.divmod(at, len(self.draw.pools[i]))
        return np.concatenate([self._order(i, e)[places[epochs == e]] for e in np.unique(epochs).tolist()])

    def _order(self, i: int, epoch: int) -> np.ndarray:
        """The permutation of an epoch, a function of its number; the last one is kept, it takes a while."""
        known, order = self._orders.get(i, (None, None))
        if known != epoch or order is None:
            order = self._generator(EPOCHS, i, epoch).permutation(len(self.draw.pools[i]))
            self._orders[i] = (epoch, order)
        return order

    def prepared(self, step: int) -> Tensor:
        """What the CPU does: the images (N, C, H, W) in every view, or those that another device views."""
        rows = self.rows(step)
        images = gather(list(zip(self.draw.pools, rows, strict=True)))
        if self.device.type != "cpu":
            return images
        views = self._viewed(images, step, rows)
        return views[0] if len(views) == 1 else torch.cat(views)

    def drawn(self, prepared: Tensor, step: int) -> Drawn:
        """The rows of a step on the device, from what ``prepared`` gave."""
        rows = self.rows(step)
        if self.device.type == "cpu":
            views = list(prepared.chunk(len(self.draw.views)))
        else:
            views = self._viewed(prepared.to(self.device, non_blocking=True), step, rows)
        return Drawn(self, views, self._domain, rows)

    def _viewed(self, images: Tensor, step: int, rows: Sequence[np.ndarray]) -> list[Tensor]:
        pools, sizes = self.draw.pools, None
        if all(pool.domain.sizes is not None for pool in pools):
            sizes = torch.from_numpy(np.concatenate([_sizes(p)[r] for p, r in zip(pools, rows, strict=True)]))
        views = []
        for number, view in enumerate(VIEWS[name] for name in self.draw.views):
            stream = AUGMENT + SECOND * number
            uniforms = [
                self._generator(stream, i, step).random((len(r), view.draws)) for i, r in enumerate(rows)
            ]
            drawn = torch.from_numpy(np.concatenate(uniforms))
            views.append(view(images, drawn, self.size, sizes, self.normalize))
        return views

    def _generator(self, stream: int, i: int, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.first + stream, self.draw.pools[i].env, step))


@dataclass(frozen=True)
class EpochPool:
    """A training pool's images in order, in the evaluation view: yields x (n, C, H, W) batch by batch."""

    loader: Loader
    pool: Pool

    def __len__(self) -> int:
        return len(self.pool)

    def __iter__(self) -> Iterator[Tensor]:
        return self.loader.images(self.pool)

    @property
    def memo(self) -> Memo:
        """What is remembered of these images, with or without their labels."""
        return self.loader.memos.setdefault(id(self.pool.indices), (self.pool, Memo()))[1]


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
