"""Arithmetic that bfloat16 would spoil: differences of sums that nearly cancel."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.amp import is_autocast_available

P = ParamSpec("P")
R = TypeVar("R")


def backward(loss: Tensor) -> None:
    """``loss.backward()`` with the types of the forward pass, which autocast would round anew."""
    with _without_autocast(loss.device.type):
        loss.backward()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` as without autocast, its half-precision arguments in float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        halves = (torch.bfloat16, torch.float16)
        full = [a.float() if isinstance(a, Tensor) and a.dtype in halves else a for a in args]
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        with _without_autocast(device):
            return function(*full, **kwargs)  # type: ignore[arg-type]

    return run


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()
