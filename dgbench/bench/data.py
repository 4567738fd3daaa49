"""Images per second, against torchvision's per-image transforms in a DataLoader, as DomainBed uses them."""

import time
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ..datasets.pacs import PACS
from ..loaders import Loader
from ..machine import Machine, keep_freed_memory, prepare
from ..stream import Draw
from ..tasks import Pool
from ..views import IMAGENET_MEAN, IMAGENET_STD
from .images import data_dir
from .peer import EVALUATION, SIZE, TRAINING
from .ratio import Ratio, milliseconds, paired

DOMAIN, BATCH, WORKERS = "photo", 32, 2
IMAGES = 960  # of one turn
SETTLE_SECONDS = 1.0
"""In which the other pipeline's workers fill their queues: afterwards they take no time from this one."""


def views(turns: int) -> list[Ratio]:
    """The training view at 224 px, from a warm cache: in line (one core), and by as many workers."""
    theirs = rate(_theirs(TRAINING))
    ratios = []
    for workers, text in ((0, "in line"), (WORKERS, f"{WORKERS} workers")):
        ours = rate(_ours(workers))
        name = f"images/s, training view, {text} / torchvision, {WORKERS} workers"
        ratios.append(paired(name, ours, theirs, turns, "images/s"))
    return ratios


def evaluation(turns: int) -> list[Ratio]:
    """Evaluation reading at 224 px, from a warm cache, in line."""
    loader, pool = _loader(0)
    ours, theirs = rate(cycle_of(lambda: loader.images(pool))), rate(_theirs(EVALUATION))
    name = f"images/s, evaluation reading, in line / torchvision, {WORKERS} workers"
    return [paired(name, ours, theirs, turns, "images/s")]


def rate(batches: Iterator[torch.Tensor]) -> Callable[[], float]:
    """A function that measures images per second over ``IMAGES`` images, after those prepared in advance."""

    def measure() -> float:
        time.sleep(SETTLE_SECONDS)
        for _ in islice(batches, 2 * WORKERS):
            pass
        seen = 0

        def read() -> None:
            nonlocal seen
            while seen < IMAGES:
                seen += len(next(batches))

        return milliseconds(read) ** -1 * 1000 * seen

    return measure


def cycle_of(start: Callable[[], Iterator[torch.Tensor]]) -> Iterator[torch.Tensor]:
    """One pass after another."""
    while True:
        yield from start()


def _ours(workers: int) -> Iterator[torch.Tensor]:
    loader, _ = _loader(workers)
    return (loader.batch(step).x for step in count())


def _loader(workers: int) -> tuple[Loader, Pool]:
    device = prepare(Machine(device="cpu"))
    keep_freed_memory()
    (domain,) = PACS(data_dir(), image_size=SIZE).load([DOMAIN])
    pool = Pool(domain, 0, torch.randperm(len(domain)).numpy(), domain.labels)
    mean_std = (IMAGENET_MEAN, IMAGENET_STD)
    return Loader(Draw([pool], BATCH, ["domainbed"]), 0, SIZE, mean_std, device, workers), pool


def _theirs(transform: Callable[[Any], Any]) -> Iterator[torch.Tensor]:
    images = ImageFolder(str(PACS.root(data_dir()) / DOMAIN), transform)
    order = cycle(torch.randperm(len(images)).tolist())
    loader = DataLoader(images, BATCH, sampler=_Endless(order), num_workers=WORKERS, drop_last=True)
    return (x for x, _ in loader)


class _Endless(torch.utils.data.Sampler[int]):
    def __init__(self, order: Iterator[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return self.order
