"""Weight averaging: which weights are evaluated beside the raw ones.

    averagers = make(["ema", "swad"], algorithm)          # once, with the algorithm on its device
    averager.update(algorithm, step)                      # after every update, steps counted from 0
    averager.evaluated(algorithm, step, val_loss)         # after every evaluation of the raw weights
    if averager.ready(step, last):                        # is there something to evaluate?
        with averager.swapped(algorithm): ...             # the algorithm now has the averaged weights

Averages are over every parameter of the algorithm (heads and teachers too), in the parameters' dtype and on
their device. Buffers are never averaged, as in the official code of SWA and SWAD: an average carries a copy
that was made when it began. The batch-norm statistics of an averaged model are therefore stale unless they
are frozen. EMA moves all the time and is evaluated with the current buffers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .algorithm import Algorithm
from .errors import unknown

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
    def add(self, tensors: Iterable[Tensor], first: int, last: int, weight: float | None = None) -> None:
        """values += weight * (tensors - values), by default the uniform mean; the first one replaces."""
        new = list(tensors)
        if self.n == 0:
            self.first, self.values = first, _copies(new)
        else:
            torch._foreach_lerp_(self.values, new, 1 / (self.n + 1) if weight is None else weight)
        self.n, self.last = self.n + 1, last

    @classmethod
    def restored(cls, state: State, device: torch.device) -> "Mean":
        """The inverse of ``vars``; copies, so that two averagers never share a tensor."""
        tensors = {name: [t.to(device, copy=True) for t in state[name]] for name in ("values", "buffers")}
        return cls(**{**state, **tensors})


class Averager:
    """One rule. ``state_dict`` holds tensors and plain values, by reference: save it before the next step."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.mean = Mean()
        self.device = next(algorithm.parameters()).device

    def update(self, algorithm: Algorithm, step: int) -> None:
        """Take in the weights after update ``step``."""
        raise NotImplementedError

    def evaluated(self, algorithm: Algorithm, step: int, val_loss: float) -> None:
        """Take in the validation loss of the raw weights, the mean of the source domains' cross-entropies."""

    def ready(self, step: int, last: bool) -> bool:
        """Whether the average is to be evaluated now; ``last``: this is the run's last evaluation."""
        return self.mean.n > 0

    def result(self) -> Mean:
        """The average now; the state stays as it is. An empty list of buffers means the current ones."""
        return self.mean

    @contextmanager
    def swapped(self, algorithm: Algorithm) -> Iterator[Algorithm]:
        """The algorithm with averaged weights; afterwards it has its own again, bit for bit."""
        result = self.result()
        parameters, buffers = list(algorithm.parameters()), list(algorithm.buffers())
        own = _copies(parameters), _copies(buffers)
        try:
            _assign(parameters, result.values)
            if result.buffers:
                _assign(buffers, result.buffers)
            yield algorithm
        finally:
            _assign(parameters, own[0])
            _assign(buffers, own[1])

    def info(self) -> State:
        """Facts for the record: the range of steps (-1: none yet), and how many weights were averaged."""
        return {"start_step": self.mean.first, "end_step": self.mean.last, "n_averaged": self.mean.n}

    def state_dict(self) -> State:
        return {"mean": dict(vars(self.mean))}

    def load_state_dict(self, state: State) -> None:
        self.mean = Mean.restored(state["mean"], self.device)


class EMA(Averager):
    """Exponential moving average: w <- w + max(1 - decay, 1 / (n + 1)) (weights - w) at the n-th step.

    The maximum is the warm-up: a uniform mean of all weights until 1 / (1 - decay) steps, exponential from
    then on, so that a short run is not held at its initial weights. Source of the ramp: SePiCo's teacher.
    """

    def __init__(self, algorithm: Algorithm, decay: float = 0.999) -> None:
        super().__init__(algorithm)
        self.decay = decay

    def update(self, algorithm: Algorithm, step: int) -> None:
        weight = max(1 - self.decay, 1 / (self.mean.n + 1))
        self.mean.add(algorithm.parameters(), step, step, weight)

    def info(self) -> State:
        return {**super().info(), "decay": self.decay}


class SWA(Averager):
    """Stochastic weight averaging (Izmailov et al., UAI 2018): uniform mean of the weights from a step on.

    arXiv 1803.05407. Starts after ``start_fraction`` of the run; the first weights replace the copy and the
    buffers stay at that copy's values, as in torch's and SWAD's AveragedModel.
    Differs from the paper: the weights of every step, at a constant learning rate; batch-norm statistics are
    not computed anew.
    """

    def __init__(self, algorithm: Algorithm, start_fraction: float = 0.75) -> None:
        super().__init__(algorithm)
        self.start = int(start_fraction * algorithm.problem.num_steps)

    def update(self, algorithm: Algorithm, step: int) -> None:
        if step < self.start:
            return
        if self.mean.n == 0:
            self.mean.buffers = _copies(algorithm.buffers())
        self.mean.add(algorithm.parameters(), step, step)


class SWAD(Averager):
    """SWAD: Stochastic Weight Averaging Densely (Cha et al., NeurIPS 2021), as its official code does it.

    arXiv 2102.08604, Algorithm 1. A segment is the mean of the weights after each step since the previous
    evaluation, with the validation loss of the raw weights at its end. The result is the uniform mean of a
    list of segments:

    - Converged, when the (first) minimum of the last ``n_converge`` losses is the oldest of them. Its
      segment's end is the converge step; threshold = (1 + tolerance_ratio) * mean of these losses.
    - From then on, at each evaluation: dead, when the last ``n_tolerance`` losses are all above the
      threshold; nothing is averaged any more. Else the oldest of these segments enters the list.
    - At the end of a run that is not dead, the segments that remain enter while the minimum of what is left
      is within the threshold. A run that never converged yields its last segment.

    Buffers are those of the evaluation before the convergence segment began.
    Source: SWAD, swad.py, class LossValley. Differs from the paper: the first segments of the list are chosen
    as ``_early`` says, some enter twice, each segment has the same weight; ``paper_valley`` is the paper's
    range. Training goes on after the valley is dead. Memory: max(n_converge, n_tolerance) + 2 copies.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        n_converge: int = 3,
        n_tolerance: int = 6,
        tolerance_ratio: float = 0.3,
    ) -> None:
        super().__init__(algorithm)
        self.n_converge, self.n_tolerance, self.tolerance_ratio = n_converge, n_tolerance, tolerance_ratio
        self.segment = Mean(buffers=_copies(algorithm.buffers()))  # since the last evaluation
        self.queue: list[Mean] = []  # the latest segments, oldest first
        self.converge_step: int | None = None
        self.threshold = math.nan
        self.dead_step: int | None = None

    def update(self, algorithm: Algorithm, step: int) -> None:
        if self.dead_step is None:
            self.segment.add(algorithm.parameters(), step, step)

    def evaluated(self, algorithm: Algorithm, step: int, val_loss: float) -> None:
        if self.dead_step is not None:
            return
        self.segment.loss = val_loss
        self.queue = [*self.queue, self.segment][-max(self.n_converge, self.n_tolerance) :]
        self.segment = Mean(buffers=_copies(algorithm.buffers()))
        if self.converge_step is None:
            self._begin()
        elif self._smooth[0].last >= self.converge_step:
            if self._in_valley(self._smooth):
                _append(self.mean, self._smooth[:1])
            else:
                self.dead_step, self.queue, self.segment = step, [], Mean()

    def ready(self, step: int, last: bool) -> bool:
        return last and (self.dead_step is not None or bool(self.queue))

    def result(self) -> Mean:
        """The uniform mean of the listed segments; before the convergence, the latest segment."""
        if self.converge_step is None:
            return self.queue[-1]
        mean = Mean(**vars(self.mean))
        if rest := self._rest():
            mean.values = _copies(mean.values)
            _append(mean, rest)
        return mean

    def info(self) -> State:
        """-1: no step yet. n_averaged counts segments with their repetitions, or steps if not converged."""
        rest = self._rest()
        means = [self.mean, *rest] if self.mean.n else rest
        n = self.mean.n + len(rest)
        if self.converge_step is None:
            means, n = self.queue[-1:], sum(segment.n for segment in self.queue[-1:])
        return {
            "start_step": means[0].first if means else -1,
            "end_step": means[-1].last if means else -1,
            "n_averaged": n,
            "converged": self.converge_step is not None,
            "converge_step": self.converge_step,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "dead_step": self.dead_step,
        }

    def state_dict(self) -> State:
        return {
            "mean": dict(vars(self.mean)),
            "segment": dict(vars(self.segment)),
            "queue": [dict(vars(segment)) for segment in self.queue],
            "converge_step": self.converge_step,
            "threshold": self.threshold,
            "dead_step": self.dead_step,
        }

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.segment = Mean.restored(state["segment"], self.device)
        self.queue = [Mean.restored(segment, self.device) for segment in state["queue"]]
        self.converge_step, self.threshold = state["converge_step"], state["threshold"]
        self.dead_step = state["dead_step"]

    @property
    def _smooth(self) -> list[Mean]:
        return self.queue[-self.n_tolerance :]

    def _in_valley(self, segments: Sequence[Mean]) -> bool:
        return min(segment.loss for segment in segments) <= self.threshold

    def _begin(self) -> None:
        window = self.queue[-self.n_converge :]
        losses = [segment.loss for segment in window]
        if len(window) < self.n_converge or losses.index(min(losses)) != 0:
            return
        self.converge_step = window[0].last
        self.threshold = float(np.mean(losses)) * (1 + self.tolerance_ratio)
        # no segment has entered yet: n stays 0, so the first one replaces these values
        self.mean = Mean(values=window[0].values, buffers=window[0].buffers)
        _append(self.mean, self._early())

    def _early(self) -> list[Mean]:
        """The segments that enter at convergence: those before the tolerance window reaches its segment."""
        surplus = self.n_tolerance - self.n_converge
        if surplus <= 0:
            return self.queue[-self.n_converge :][1 : 1 - surplus]
        early = self._smooth[: surplus + 1]
        above = [i for i, segment in enumerate(early) if segment.loss > self.threshold]
        start = above[-1] + 1 if above else 0
        return early[start + 1 :]

    def _rest(self) -> list[Mean]:
        """The segments that enter at the end of the run."""
        if self.converge_step is None or self.dead_step is not None:
            return []
        left, rest = self._smooth[1:], []
        while left and self._in_valley(left):
            rest.append(left.pop(0))
        return rest


def paper_valley(
    losses: Sequence[float], n_converge: int = 3, n_tolerance: int = 6, tolerance_ratio: float = 0.3
) -> tuple[int | None, int | None, float]:
    """SWAD's range as in the paper (Algorithm 1): evaluations t_s and t_e, and the threshold (nan: none).

    t_s is the first evaluation that is the minimum of the ``n_converge`` ones from it on; the threshold is
    (1 + tolerance_ratio) times their mean. t_e comes before the first ``n_tolerance`` ones all above it.
    """
    for start in range(len(losses) - n_converge + 1):
        window = losses[start : start + n_converge]
        if window[0] == min(window):
            break
    else:
        return None, None, math.nan
    threshold = float(np.mean(window)) * (1 + tolerance_ratio)
    for end in range(start, len(losses) - n_tolerance):
        if min(losses[end + 1 : end + 1 + n_tolerance]) > threshold:
            return start, end, threshold
    return start, None, threshold


AVERAGERS: dict[str, type[Averager]] = {"ema": EMA, "swa": SWA, "swad": SWAD}


def make(names: Sequence[str], algorithm: Algorithm) -> dict[str, Averager]:
    """The named averagers in the given order; make them when the algorithm is on its device."""
    for name in names:
        if name not in AVERAGERS:
            raise unknown("averaging", name, AVERAGERS)
    return {name: AVERAGERS[name](algorithm) for name in names}


def _append(mean: Mean, segments: Sequence[Mean]) -> None:
    for segment in segments:
        mean.add(segment.values, segment.first, segment.last)


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _assign(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if len(targets) != len(sources):
        raise RuntimeError(f"the average holds {len(sources)} tensors, the algorithm {len(targets)}")
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
