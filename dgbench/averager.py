"""The interface of a rule of weight averaging, and the running mean that the rules share."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .algorithm import Algorithm

State = dict[str, Any]


@dataclass
class Mean:
    """A running mean of lists of tensors.

    n: how many entered. first, last: steps of the first and the last one, -1 before. buffers: what a model
    with these weights carries. loss: validation loss at the end, where the mean is a segment of SWAD.
    """

    n: int = 0
    first: int = -1
    last: int = -1
    loss: float = math.nan
    values: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def add(
        self, tensors: Iterable[Tensor], first: int, last: int, count: int = 1, weight: float | None = None
    ) -> None:
        """values += weight * (tensors - values), by default the mean over counts; the first one replaces."""
        new = list(tensors)
        if self.n == 0:
            self.first, self.values = first, copies(new)
        else:
            torch._foreach_lerp_(self.values, new, count / (self.n + count) if weight is None else weight)
        self.n, self.last = self.n + count, last

    @classmethod
    def restored(cls, state: State, device: torch.device) -> "Mean":
        """The inverse of ``vars``; copies, so that two averagers never share a tensor."""
        tensors = {name: [t.to(device, copy=True) for t in state[name]] for name in ("values", "buffers")}
        return cls(**{**state, **tensors})


class Averager:
    """One rule. ``state_dict`` holds tensors and plain values, by reference: save it before the next step."""

    def __init__(self, algorithm: Algorithm, bn_batches: int = 0) -> None:
        """bn_batches: training batches from which batch-norm statistics are estimated anew before an
        evaluation; 0 or less leaves them as they are, as SWAD's official code does with frozen ones."""
        self.mean, self.bn_batches = Mean(), max(0, bn_batches)
        self.estimated: tuple[tuple[int, int], list[Tensor]] | None = None
        self.images: Callable[[], Iterable[Tensor]] = tuple  # training batches (N, C, H, W), set by ``make``
        self.device = next(algorithm.parameters()).device

    @classmethod
    def options(cls) -> dict[str, Any]:
        """{option: default} of ``--averaging name:option=value``."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    def update(self, algorithm: Algorithm, step: int) -> None:
        """Take in the weights after update ``step``."""
        raise NotImplementedError

    def evaluated(self, algorithm: Algorithm, step: int, val_loss: float) -> None:
        """Take in the validation loss of the raw weights, the mean of the source domains' cross-entropies."""

    def ready(self, last: bool) -> bool:
        """Whether the average is to be evaluated now; ``last``: this is the run's last evaluation."""
        return self.mean.n > 0

    def result(self) -> Mean:
        """The average now; the state stays as it is. No buffers, or some of another shape than the
        algorithm's by now: the current ones."""
        return self.mean

    @contextmanager
    def swapped(self, algorithm: Algorithm) -> Iterator[Algorithm]:
        """The algorithm with averaged weights; afterwards it has its own again, bit for bit."""
        result = self.result()
        parameters, buffers = list(algorithm.parameters()), list(algorithm.buffers())
        own = copies(parameters), copies(buffers)
        try:
            _assign(parameters, result.values)
            if [b.shape for b in result.buffers] == [b.shape for b in buffers]:
                _assign(buffers, result.buffers)
            if self.bn_batches:
                self._estimate(algorithm, buffers, (result.n, result.last))
            yield algorithm
        finally:
            _assign(parameters, own[0])
            _assign(buffers, own[1])

    def _estimate(self, algorithm: Algorithm, buffers: Sequence[Tensor], average: tuple[int, int]) -> None:
        """Batch-norm statistics of an average, told by (n, last), once: it is evaluated and then saved."""
        if self.estimated is not None and self.estimated[0] == average:
            _assign(buffers, self.estimated[1])
            return
        estimate_batch_norm(algorithm, islice(self.images(), self.bn_batches))
        self.estimated = average, copies(buffers)

    def info(self) -> State:
        """Facts for the record: the range of steps (-1: none yet), and how many weights were averaged."""
        return {"start_step": self.mean.first, "end_step": self.mean.last, "n_averaged": self.mean.n}

    def state_dict(self) -> State:
        return {"mean": dict(vars(self.mean))}

    def load_state_dict(self, state: State) -> None:
        self.mean = Mean.restored(state["mean"], self.device)


@torch.no_grad()
def estimate_batch_norm(algorithm: Algorithm, images: Iterable[Tensor]) -> None:
    """Replace the running statistics of the evaluated model by the mean over batches.

    Those that are frozen in training stay. Other layers are as in evaluation: nothing is dropped or mixed.
    """
    training = algorithm.training
    algorithm.train()
    layers = [m for m in algorithm.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    algorithm.eval()
    before = [(layer.momentum, copies(layer.buffers())) for layer in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
    for x in images if layers else ():
        algorithm(x)
    for layer, (momentum, own) in zip(layers, before, strict=True):
        layer.momentum = momentum
        if layer.num_batches_tracked == 0:  # not on the way: a student whose teacher is evaluated
            _assign(list(layer.buffers()), own)
    algorithm.train(training)


def append(mean: Mean, segments: Sequence[Mean], by_steps: bool = False) -> None:
    """Segments enter a mean, each with the weight of one, or of its steps."""
    for segment in segments:
        mean.add(segment.values, segment.first, segment.last, segment.n if by_steps else 1)


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Detached copies."""
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _assign(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if len(targets) != len(sources):
        raise RuntimeError(f"the average holds {len(sources)} tensors, the algorithm {len(targets)}")
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
