"""A teacher whose weights are an exponential moving average of a student's."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """A copy of ``student`` that only ``move`` changes: no gradient reaches its parameters.

    It averages the parameters alone. Buffers (batch-norm statistics) are the teacher's own and follow its own
    forward passes in training mode, as in the official code of mean teacher, SePiCo and UCDIR. A method holds
    it as a submodule, so that the checkpoint has it, and moves it once per update: after ``super().update``
    (mean teacher), or before the forward pass with the student as the last step left it (SePiCo, UCDIR).
    """

    def __init__(self, student: nn.Module, rate: float, ramp: bool = False) -> None:
        """rate: alpha, the share of the teacher that stays. ramp: alpha_t = min(1 - 1 / (t + 1), alpha), so
        that update 0 copies the student and the teacher is at first the mean of all students."""
        super().__init__()
        self.net = deepcopy(student).requires_grad_(False)
        self.rate, self.ramp = rate, ramp

    def alpha(self, step: int) -> float:
        """The share of the teacher that stays at update ``step`` (0, 1, ...)."""
        return min(1 - 1 / (step + 1), self.rate) if self.ramp else self.rate

    @torch.no_grad()
    def move(self, student: nn.Module, step: int) -> None:
        """teacher <- alpha teacher + (1 - alpha) student, all parameters at once."""
        ours: list[Tensor] = list(self.net.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.alpha(step))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """What the copy gives for x, without a gradient."""
        return self.net(x)
