"""Learning-rate schedules: the hyper-parameter ``lr_schedule``."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .algorithm import Algorithm


def factor(schedule: str, step: int, num_steps: int, steps_per_epoch: int, gamma: float) -> float:
    """What the learning rate is multiplied by at an update.

    "cosine": (1 + cos(pi t / T)) / 2 with t the update and T their number; "cosine_epoch": the same with t
    the first update of the epoch; "inverse": (1 + gamma t) ** -0.75, as in Ganin et al. (JMLR 2016).
    """
    if schedule == "inverse":
        return (1 + gamma * step) ** -0.75
    if schedule == "cosine_epoch":
        step -= step % steps_per_epoch
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / num_steps))


def apply(algorithm: "Algorithm") -> None:
    """Set the learning rates of the optimizers for the update ``algorithm.step``."""
    hp, problem = algorithm.hp, algorithm.problem
    if hp["lr_schedule"] == "constant":
        return
    times = factor(
        hp["lr_schedule"], algorithm.step, problem.num_steps, problem.steps_per_epoch, hp["lr_gamma"]
    )
    for optim in algorithm.optims:
        for group in optim.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * times
