"""Split -> batches. A training batch is a pure function of (seed, step): no sampler holds any state.

Domain i of step t draws from its own generator, seeded by (seed, stream, environment, t). Rows are drawn
with replacement, as DomainBed draws them, or in epochs: batch t is the rows t*B to (t+1)*B of an endless
sequence of permutations of the pool, each drawn from (seed, stream, environment, epoch). A view's
parameters are one row of uniforms per image, so they depend on (seed, environment, step, row) alone,
whatever the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .algorithm import Batch
from .tasks import Pool, Split
from .transforms import VIEWS, normalize

ROWS, AUGMENT, EPOCHS = range(3)  # streams of random numbers
SAMPLINGS = ("replacement", "epochs")
EVALUATION_PIXELS = {"cpu": 2**17, "cuda": 2**22}  # of one batch; large ones leave a processor's cache


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
        sampling: str = "replacement",
    ) -> None:
        """size: pixels of a view's side. mean_std: per channel, after scaling to [0, 1]; None leaves it.

        class_balanced: classes equally likely, always with replacement. sampling: one of ``SAMPLINGS``.
        """
        self.pools, self.batch_size, self.seed = pools, batch_size, seed
        self.view, self.size, self.mean_std, self.device = VIEWS[view], size, mean_std, device
        self.cumulative = [_class_weights(pool) if class_balanced else None for pool in pools]
        self.sampling = sampling
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # domain -> its last (epoch, permutation)
        self.domain_of_row = torch.arange(len(pools), device=device).repeat_interleave(batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of an update; N = D * B rows, domain-major."""
        rows = [self._rows(i, step) for i in range(len(self.pools))]
        images = np.concatenate(
            [p.domain.images[p.indices[r]] for p, r in zip(self.pools, rows, strict=True)]
        )
        labels = np.concatenate([_labels(p)[r] for p, r in zip(self.pools, rows, strict=True)])
        return Batch(
            x=self._images(images, step, rows),
            y=torch.from_numpy(labels).to(self.device),
            d=self.domain_of_row,
            idx=torch.from_numpy(np.concatenate(rows)).to(self.device),
            num_domains=len(self.pools),
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
            images = torch.from_numpy(pool.domain.images[rows]).to(self.device)
            yield self._normalized(VIEWS["none"](images, torch.empty(len(rows), 0), self.size, None))

    def epoch_pools(self, split: Split) -> list["EpochPool"]:
        """What ``Algorithm.begin_epoch`` may look at: the training images, without labels."""
        return [EpochPool(self, pool) for pool in (*split.labelled, *split.unlabelled)]

    def _rows(self, i: int, step: int) -> np.ndarray:
        cumulative = self.cumulative[i]
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

    def _images(self, images: np.ndarray, step: int, rows: Sequence[np.ndarray]) -> Tensor:
        uniforms = [
            self._generator(AUGMENT, i, step).random((len(r), self.view.draws)) for i, r in enumerate(rows)
        ]
        sizes = None
        if all(pool.domain.sizes is not None for pool in self.pools):
            sizes = torch.from_numpy(
                np.concatenate([_sizes(p)[r] for p, r in zip(self.pools, rows, strict=True)])
            )
        on_device = torch.from_numpy(images).to(self.device, non_blocking=True)
        return self._normalized(
            self.view(on_device, torch.from_numpy(np.concatenate(uniforms)), self.size, sizes)
        )

    def _normalized(self, x: Tensor) -> Tensor:
        return x if self.mean_std is None else normalize(x, *self.mean_std)

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
