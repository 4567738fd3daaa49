"""SWAD: which segments of a run are averaged."""

import math
from collections.abc import Sequence

import numpy as np

from .algorithm import Algorithm
from .averager import Averager, Mean, State, append, copies

OFFICIAL_BN_BATCHES = 500  # SWAD, trainer.py


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

    Buffers are those of the evaluation before the convergence segment began; where batch-norm statistics
    train (``freeze_bn`` off) they are estimated anew from training batches, where not they stay stale.
    Source: SWAD, swad.py, class LossValley. Differs from the paper: the first segments of the list are chosen
    as ``_early`` says, some enter twice, each segment has the same weight; ``SWADPaper`` has the paper's
    range. Training goes on after the valley is dead. Memory: max(n_converge, n_tolerance) + 2 copies.
    """

    by_steps = False  # whether a segment weighs one or its steps

    def __init__(
        self,
        algorithm: Algorithm,
        n_converge: int = 3,
        n_tolerance: int = 6,
        tolerance_ratio: float = 0.3,
        bn_batches: int = -1,
    ) -> None:
        """bn_batches: -1 is the official code's, 500 (or one per update of a shorter run) where batch-norm
        statistics train and 0 where they are frozen."""
        official = 0 if algorithm.problem.freeze_bn else min(OFFICIAL_BN_BATCHES, algorithm.problem.num_steps)
        super().__init__(algorithm, official if bn_batches < 0 else bn_batches)
        self.n_converge, self.n_tolerance, self.tolerance_ratio = n_converge, n_tolerance, tolerance_ratio
        self.segment = Mean(buffers=copies(algorithm.buffers()))  # since the last evaluation
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
        self.segment = Mean(buffers=copies(algorithm.buffers()))
        if self.converge_step is None:
            self._begin()
        elif self._smooth[0].last >= self.converge_step:
            if self._in_valley(self._smooth):
                append(self.mean, self._smooth[:1], self.by_steps)
            else:
                self.dead_step, self.queue, self.segment = step, [], Mean()

    def ready(self, last: bool) -> bool:
        return last and (self.dead_step is not None or bool(self.queue))

    def result(self) -> Mean:
        """The uniform mean of the listed segments; before the convergence, the latest segment."""
        if self.converge_step is None:
            return self.queue[-1]
        mean = Mean(**vars(self.mean))
        if rest := self._rest():
            mean.values = copies(mean.values)
            append(mean, rest, self.by_steps)
        return mean

    def info(self) -> State:
        """-1: no step yet. n_averaged counts segments with their repetitions, or steps if not converged."""
        rest = self._rest()
        means = [self.mean, *rest] if self.mean.n else rest
        n = self.mean.n + sum(segment.n if self.by_steps else 1 for segment in rest)
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
            "bn_batches": self.bn_batches,
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
        append(self.mean, self._early(), self.by_steps)

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


class SWADPaper(SWAD):
    """SWAD as the paper's Algorithm 1 states it: the mean of the weights after every step from t_s to t_e.

    t_s is the first evaluation that is the minimum of the ``n_converge`` from it on, the threshold (1 +
    tolerance_ratio) times their mean; t_e comes before the first ``n_tolerance`` evaluations all above it.
    A segment weighs as many steps as it has. Once converged, the queue holds the segments that later
    evaluations can still exclude.
    A run that never converged yields its last segment, as the official code does.
    """

    by_steps = True

    def evaluated(self, algorithm: Algorithm, step: int, val_loss: float) -> None:
        if self.converge_step is None or self.dead_step is not None:
            super().evaluated(algorithm, step, val_loss)
            return
        self.segment.loss = val_loss
        self.queue.append(self.segment)
        self.segment = Mean()
        self._settle(step)

    def _begin(self) -> None:
        super()._begin()
        if self.converge_step is not None:
            self.queue = self.queue[-self.n_converge :]
            self.mean = Mean(buffers=self.queue[0].buffers)
            self._settle(self.queue[-1].last)

    def _settle(self, step: int) -> None:
        """Take in the segments that have left the tolerance window; find the valley's end."""
        while len(self.queue) > self.n_tolerance and self.dead_step is None:
            append(self.mean, [self.queue.pop(0)], self.by_steps)
            if not self._in_valley(self.queue[: self.n_tolerance]):
                self.dead_step, self.queue, self.segment = step, [], Mean()

    def _rest(self) -> list[Mean]:
        return self.queue if self.converge_step is not None else []
