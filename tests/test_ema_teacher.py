"""The EMA teacher: recorded vectors, slow loops and what must not move it."""

import copy

import pytest
import torch
from golden_vectors import Case, cases, close
from torch import nn

from dgbench.networks.ema import EMATeacher


class Weights(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone())


@pytest.mark.golden
@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("case", cases("other", "ema_teacher"))
def test_follows_the_student(case: Case, ramp: bool) -> None:
    thetas = case.x("theta")
    student = Weights(thetas[0])
    teacher = EMATeacher(student, case.hp["alpha"], ramp)
    expected = case.outputs["teacher"] if ramp else case.alt["plain"]
    for step, theta in enumerate(thetas):
        student.value.data.copy_(theta)
        teacher.move(student, step)
        close(teacher.net.value, expected[step], 1e-12, 1e-14)
        if ramp:
            close(teacher.alpha(step), case.outputs["alpha"][step], 1e-12)


def test_limits() -> None:
    start, end = Weights(torch.zeros(3)), Weights(torch.ones(3))
    still, copies = EMATeacher(start, 1.0), EMATeacher(start, 0.0)
    for teacher in (still, copies):
        teacher.move(end, 5)
    assert not still.net.value.any() and torch.equal(copies.net.value, end.value)


def test_buffers_are_its_own_and_no_gradient_reaches_it() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = EMATeacher(student, 0.5)
    x = torch.randn(8, 3)
    student(x).sum().backward()
    statistics = copy.deepcopy(dict(teacher.named_buffers()))
    teacher.move(student, 0)
    assert all(torch.equal(value, statistics[name]) for name, value in teacher.named_buffers())
    assert not teacher(x).requires_grad
    assert not torch.equal(teacher.net[1].running_mean, statistics["net.1.running_mean"])
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(a is b for a in teacher.parameters() for b in student.parameters())


def test_a_state_dict_brings_the_teacher_back() -> None:
    student = Weights(torch.zeros(3))
    teacher, other = EMATeacher(student, 0.9), EMATeacher(Weights(torch.rand(3)), 0.9)
    teacher.move(Weights(torch.ones(3)), 0)
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other.net.value, teacher.net.value)
