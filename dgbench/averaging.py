"""Weight averaging: which weights are evaluated beside the raw ones.

    averagers = make(["ema", "swad"], algorithm)          # once, with the algorithm on its device
    averager.update(algorithm, step)                      # after every update, steps counted from 0
    averager.evaluated(algorithm, step, val_loss)         # after every evaluation of the raw weights
    if averager.ready(last):                              # is there something to evaluate?
        with averager.swapped(algorithm): ...             # the algorithm now has the averaged weights

Averages are over every parameter of the algorithm (heads and teachers too), in the parameters' dtype and on
their device. Buffers are never averaged, as in the official code of SWA and SWAD: an average carries a copy
that was made when it began. The batch-norm statistics of an averaged model are therefore stale unless they
are frozen or, with ``bn_batches``, estimated anew. EMA moves all the time and has the current buffers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from .algorithm import Algorithm
from .averager import Averager, State, copies
from .errors import UsageError, unknown
from .swad import SWAD, SWADPaper


class EMA(Averager):
    """Exponential moving average: w <- w + max(1 - decay, 1 / (n + 1)) (weights - w) at the n-th step.

    The maximum is the warm-up: a uniform mean of all weights until 1 / (1 - decay) steps, exponential from
    then on, so that a short run is not held at its initial weights. Source of the ramp: SePiCo's teacher.
    """

    def __init__(self, algorithm: Algorithm, decay: float = 0.999, bn_batches: int = 0) -> None:
        super().__init__(algorithm, bn_batches)
        self.decay = decay

    def update(self, algorithm: Algorithm, step: int) -> None:
        weight = max(1 - self.decay, 1 / (self.mean.n + 1))
        self.mean.add(algorithm.parameters(), step, step, weight=weight)

    def info(self) -> State:
        return {**super().info(), "decay": self.decay}


class SWA(Averager):
    """Stochastic weight averaging (Izmailov et al., UAI 2018): uniform mean of the weights from a step on.

    arXiv 1803.05407. Starts after ``start_fraction`` of the run; the first weights replace the copy and the
    buffers stay at that copy's values, as in torch's and SWAD's AveragedModel.
    Differs from the paper: the weights of every step, at a constant learning rate; batch-norm statistics are
    computed anew on request alone (``bn_batches``).
    """

    def __init__(self, algorithm: Algorithm, start_fraction: float = 0.75, bn_batches: int = 0) -> None:
        super().__init__(algorithm, bn_batches)
        self.start = int(start_fraction * algorithm.problem.num_steps)

    def update(self, algorithm: Algorithm, step: int) -> None:
        if step < self.start:
            return
        if self.mean.n == 0:
            self.mean.buffers = copies(algorithm.buffers())
        self.mean.add(algorithm.parameters(), step, step)


AVERAGERS: dict[str, type[Averager]] = {
    "ema": EMA,
    "swa": SWA,
    "swad": SWAD,
    "swad_paper": SWADPaper,
}

RANGES = {  # of the options: the least value, and that which all are below
    "decay": (0, 1),
    "start_fraction": (0, 1),
    "n_converge": (1, math.inf),
    "n_tolerance": (1, math.inf),
    "tolerance_ratio": (0, math.inf),
    "bn_batches": (-1, math.inf),
}


def parse(text: str) -> tuple[type[Averager], dict[str, Any]]:
    """``name`` or ``name:option=value,...``, e.g. ``swad:tolerance_ratio=0.2``: the rule and its options.

    ``UsageError`` for an unknown rule or option, or a value that is no number or out of range.
    """
    name, _, told = text.partition(":")
    if name not in AVERAGERS:
        raise unknown("averaging", name, AVERAGERS)
    defaults = AVERAGERS[name].options()
    options = {}
    for part in filter(None, told.split(",")):
        key, _, value = part.partition("=")
        if key not in defaults:
            raise unknown(f"option of --averaging {name}", key, defaults)
        try:
            options[key] = type(defaults[key])(value)
        except ValueError:
            raise UsageError(
                f"--averaging {text}: {key}={value!r} is no number; default {defaults[key]}"
            ) from None
        least, below = RANGES[key]
        if not least <= options[key] < below:
            raise UsageError(f"--averaging {text}: {key} must be at least {least} and below {below}")
    return AVERAGERS[name], options


def make(
    names: Sequence[str], algorithm: Algorithm, images: Callable[[], Iterable[Tensor]] = tuple
) -> dict[str, Averager]:
    """The averagers in the given order; make them when the algorithm is on its device.

    images: gives training batches (N, C, H, W), for the option ``bn_batches``.
    """
    made = {}
    for name in names:
        rule, options = parse(name)
        made[name] = rule(algorithm, **options)
        made[name].images = images
    return made
