"""Dropout for runs that train as one program (``vectorized.py``)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .algorithm import Algorithm, Batch
from .errors import Unsuited


class Masks:
    """Dropout from each run's own generator, at its own rate: what ``torch.manual_seed`` gives it alone."""

    def __init__(self, template: Algorithm, algorithms: Sequence[Algorithm]) -> None:
        names = [name for name, module in template.named_modules() if type(module) is nn.Dropout]
        self.rates: dict[str, list[float]] = {
            name: [getattr(a.get_submodule(name), "p", 0.0) for a in algorithms] for name in names
        }
        self.rates = {name: rates for name, rates in self.rates.items() if any(rates)}
        self.layers = {name: _Given() for name in self.rates}
        for name, layer in self.layers.items():
            parent, _, own = name.rpartition(".")
            setattr(template.get_submodule(parent), own, layer)
        self.template = template
        self.inputs: dict[str, Tensor] = {}
        self.drawn: list[Tensor] = []
        if self.layers and next(template.parameters()).device.type != "cpu":
            raise Unsuited("dropout draws other numbers on this device")

    def draw(self, batch: Batch, seeds: Sequence[int]) -> None:
        """One mask (K, ...) per layer for the coming update, in the order in which they are used."""
        if not self.layers:
            return
        if not self.inputs:
            self._look(batch)
        rows = []
        for k, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            rows.append([_mask(x, self.rates[name][k], generator) for name, x in self.inputs.items()])
        self.drawn = [torch.stack(masks) for masks in zip(*rows, strict=True)]

    def give(self, masks: Sequence[Tensor]) -> None:
        for name, mask in zip(self.inputs, masks, strict=True):
            self.layers[name].mask = mask

    def _look(self, batch: Batch) -> None:
        """What goes into each layer; a pass that changes nothing."""
        seen: list[tuple[str, Tensor]] = []
        for name, layer in self.layers.items():
            layer.tell = lambda x, name=name: seen.append((name, x))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(self.template).loss(batch)
        for layer in self.layers.values():
            layer.tell = None
        self.inputs = dict(seen)
        if len(self.inputs) != len(seen):
            raise Unsuited("a dropout layer is used twice")


class _Given(nn.Module):
    """Multiplies by a mask that was drawn before."""

    mask: Tensor | None = None
    tell: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.tell is not None:
            self.tell(x)
            return x
        return x if self.mask is None else x * self.mask


def _mask(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """As ``torch.dropout`` draws it on the CPU, which draws nothing at rates 0 and 1."""
    if rate in (0.0, 1.0):
        return torch.full_like(x, 1 - rate)
    return torch.empty_like(x).bernoulli_(1 - rate, generator=generator).div_(1 - rate)
