"""What each step of a run draws from its pools, a pure function of (seed, step): no sampler holds any state.

Domain i of step t draws from its own generator, seeded by (seed, stream, environment, t). Rows are drawn
with replacement, as DomainBed draws them, or in epochs: batch t is the rows t*B to (t+1)*B of an endless
sequence of permutations of the pool, each drawn from (seed, stream, environment, epoch). A view's
parameters are one row of uniforms per image, so they depend on (seed, environment, step, row) alone,
whatever the device and the number of workers.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .devices import moved
from .tasks import Pool
from .views import VIEWS, Normalize

ROWS, AUGMENT, EPOCHS = range(3)  # streams of random numbers
SECOND, UNLABELLED = 3, 6  # added for the second view; for unlabelled images
SAMPLINGS = ("replacement", "epochs")
RESIDENT = 0.2
"""Share of a GPU's free memory that a run's training images may take."""


@dataclass(frozen=True)
class Draw:
    """What is drawn at each step: B rows of each pool, once for every view."""

    pools: Sequence[Pool]
    batch_size: int  # B, rows per pool
    views: Sequence[str]  # names in ``views.VIEWS``
    sampling: str = "replacement"  # one of ``SAMPLINGS``
    class_balanced: bool = False  # classes equally likely, always with replacement


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
        return moved(torch.from_numpy(np.concatenate(self.own)), self.stream.device)

    def labels(self) -> Tensor:
        """(N,) int64."""
        pools = self.stream.draw.pools
        labels = np.concatenate([labels_of(p)[r] for p, r in zip(pools, self.own, strict=True)])
        return moved(torch.from_numpy(labels), self.stream.device)


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
    _last: dict[int, list[np.ndarray]] = field(default_factory=dict)  # the last step's rows

    @cached_property
    def _cumulative(self) -> list[np.ndarray | None]:
        return [_class_weights(pool) if self.draw.class_balanced else None for pool in self.draw.pools]

    @cached_property
    def _domain(self) -> Tensor:
        return torch.arange(len(self.draw.pools), device=self.device).repeat_interleave(self.draw.batch_size)

    @property
    def prepared_rows(self) -> int:
        """Rows of ``prepared``: of every view on the CPU, of the images where another device views them."""
        if self.resident is not None:
            return 0
        views = len(self.draw.views) if self.device.type == "cpu" else 1
        return views * len(self.draw.pools) * self.draw.batch_size

    @cached_property
    def resident(self) -> list[Tensor] | None:
        """The pools' images (n, H, W, C) on a GPU, where they take a small part of its memory."""
        images = [pool.domain.images for pool in self.draw.pools]
        if self.device.type != "cuda" or not all(isinstance(own, np.ndarray) for own in images):
            return None
        needed = sum(len(p) * own[0].nbytes for p, own in zip(self.draw.pools, images, strict=True))
        if needed > RESIDENT * torch.cuda.mem_get_info(self.device)[0]:
            return None
        return [gather([(pool, slice(None))]).to(self.device) for pool in self.draw.pools]

    def rows(self, step: int) -> list[np.ndarray]:
        """Indices (B,) in each pool."""
        if step not in self._last:
            self._last.clear()
            self._last[step] = [self._rows(i, step) for i in range(len(self.draw.pools))]
        return self._last[step]

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
        if self.resident is not None:
            return torch.empty(0, dtype=torch.uint8)
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
            views = self._viewed(self._on_device(prepared, rows), step, rows)
        return Drawn(self, views, self._domain, rows)

    def _on_device(self, prepared: Tensor, rows: Sequence[np.ndarray]) -> Tensor:
        if self.resident is None:
            return moved(prepared, self.device)
        chosen = [moved(torch.from_numpy(own), self.device) for own in rows]
        return torch.cat([images[own] for images, own in zip(self.resident, chosen, strict=True)])

    def _viewed(self, images: Tensor, step: int, rows: Sequence[np.ndarray]) -> list[Tensor]:
        pools, sizes = self.draw.pools, None
        if all(pool.domain.sizes is not None for pool in pools):
            sizes = torch.from_numpy(np.concatenate([_sizes(p)[r] for p, r in zip(pools, rows, strict=True)]))
        views = []
        for number, view in enumerate(VIEWS[name] for name in self.draw.views):
            stream = AUGMENT + SECOND * number
            views.append(
                view(images, self._uniforms(stream, step, view.draws), self.size, sizes, self.normalize)
            )
        return views

    def _uniforms(self, stream: int, step: int, draws: int) -> Tensor:
        """(N, draws) in [0, 1)."""
        n = range(len(self.draw.pools))
        if draws == 0:
            return torch.empty(len(n) * self.draw.batch_size, 0)
        own = [self._generator(stream, i, step).random((self.draw.batch_size, draws)) for i in n]
        return torch.from_numpy(np.concatenate(own))

    def _generator(self, stream: int, i: int, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.first + stream, self.draw.pools[i].env, step))


def gather(parts: Sequence[tuple[Pool, np.ndarray | slice]]) -> Tensor:
    """The chosen images of each pool, one part after another: (N, H, W, C), in memory as planes."""
    rows = [pool.indices[chosen] for pool, chosen in parts]
    height, width, channels = parts[0][0].domain.images.shape[1:]
    out = np.empty((sum(map(len, rows)), channels, height, width), parts[0][0].domain.images.dtype)
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


def labels_of(pool: Pool) -> np.ndarray:
    """(n,) int64."""
    assert pool.labels is not None, "a labelled pool is needed here"
    return pool.labels


def _sizes(pool: Pool) -> np.ndarray:
    assert pool.domain.sizes is not None
    return pool.domain.sizes[pool.indices]


def _class_weights(pool: Pool) -> np.ndarray:
    """Cumulative probabilities (n,) under which every class present is equally likely."""
    labels = labels_of(pool)
    counts = np.bincount(labels)
    weights = np.cumsum(1.0 / counts[labels])
    return weights / weights[-1]
