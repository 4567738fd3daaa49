"""What an update would do on a GPU, seen without one: no reach for the CPU, no wait for a value."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OneDevice(TorchDispatchMode):
    """Within it, an operation on tensors of two devices raises ``RuntimeError``; copies and CPU scalars may.

    For tensors on torch's "meta" device, which have shapes and no values: what needs a value there raises
    too, as it would wait for a GPU.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        devices = {value.device.type for value in tensors if not _scalar(value)}
        if len(devices) > 1 and function not in COPIES:
            raise RuntimeError(f"{function} of tensors on {' and '.join(sorted(devices))}")
        return function(*args, **kwargs)


def _scalar(value: Tensor) -> bool:
    return value.ndim == 0 and value.device.type == "cpu"
