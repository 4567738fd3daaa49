"""Split -> batches: what each step draws (``stream.py``) put together, and evaluation batches of any pool."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .ahead import Ahead
from .algorithm import Batch
from .devices import moved
from .networks.memory import Memo
from .stream import UNLABELLED, Draw, Stream, gather, labels_of
from .tasks import Pool, Split
from .views import VIEWS, Normalize

EVALUATION_PIXELS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels of one evaluation batch; larger ones leave a processor's cache, and need more memory."""


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
        self.memos: dict[int, Memo] = {}  # by the identity of a pool's indices
        ahead = workers and not any(stream.resident for stream in self.streams.values())
        self.prepared = Ahead(self._prepare, workers) if ahead else self._prepare

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
        labels = moved(torch.from_numpy(labels_of(pool)), self.device)
        start = 0
        for x in self.images(pool):
            yield x, labels[start : start + len(x)]
            start += len(x)

    def images(self, pool: Pool) -> Iterator[Tensor]:
        """x (n, C, H, W) of all images of a pool in order, in the evaluation view."""
        height, width, channels = pool.domain.images.shape[1:]
        pixels = height * width * -(-channels // 3)  # frozen features are one pixel of many channels
        count = EVALUATION_PIXELS.get(self.device.type, 2**22) // pixels
        count = max(16, count - count % 64)
        for start in range(0, len(pool), count):
            rows = pool.indices[start : start + count]
            images = moved(gather([(pool, slice(start, start + count))]), self.device)
            yield VIEWS["none"](images, torch.empty(len(rows), 0), self.size, None, self.normalize)

    def epoch_pools(self, split: Split) -> list["EpochPool"]:
        """What ``Algorithm.begin_epoch`` may look at: the training images, without labels."""
        return [
            EpochPool(partial(self.images, pool), self.memos.get(id(pool.indices))) for pool in split.training
        ]


@dataclass(frozen=True)
class EpochPool:
    """A training pool's images in order, in the evaluation view: yields x (n, C, H, W) batch by batch."""

    images: Callable[[], Iterator[Tensor]]
    memo: Memo | None = None  # what the evaluation before found of these images

    def __iter__(self) -> Iterator[Tensor]:
        return self.images()
