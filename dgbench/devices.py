"""Copies to the device that trains."""

import torch
from torch import Tensor


def moved(values: Tensor, device: torch.device) -> Tensor:
    """The same on the device; nobody waits for a copy to a GPU."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
