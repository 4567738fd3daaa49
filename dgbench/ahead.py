"""Processes that prepare the tensors of coming steps while the model computes."""

import multiprocessing
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Ahead:
    """``ahead(step)`` is ``produce(step)``, computed by other processes if steps are asked for in order.

    produce: a pure function of the step; every result has the same shape and type. The processes are forked
    at the first call and end with this object, or with the process that made it.
    """

    def __init__(self, produce: Callable[[int], Tensor], workers: int) -> None:
        if multiprocessing.current_process().daemon:  # of a pool of runs: may not start others
            workers = 0
        self.produce, self.workers = produce, workers
        self.next = -1

    def __call__(self, step: int) -> Tensor:
        if self.next < 0 and self.workers:
            self._start(step)
        if step != self.next:
            return self.produce(step)
        self.next += 1
        return self.slots[next(self.results)].clone()  # the slot is written again at once

    def _start(self, step: int) -> None:
        like = self.produce(step)
        self.slots = torch.empty(self.workers + 1, *like.shape, dtype=like.dtype).share_memory_()
        loader = DataLoader(
            _Filled(self.produce, self.slots),
            batch_size=None,
            sampler=range(step, 2**62),
            num_workers=self.workers,
            prefetch_factor=1,
            multiprocessing_context="fork",
        )
        self.results, self.next = iter(loader), step


class _Filled(Dataset[int]):
    """Item ``step``: the slot that now holds its result; nothing large goes through a pipe."""

    def __init__(self, produce: Callable[[int], Tensor], slots: Tensor) -> None:
        self.produce, self.slots = produce, slots

    def __getitem__(self, step: int) -> int:
        slot = step % len(self.slots)
        self.slots[slot] = self.produce(step)
        return slot
