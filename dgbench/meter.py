"""Means of logged scalars, and the time they took."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Meter:
    """Means of logged scalars since the last reading; tensors until then, one synchronisation per reading."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    images: int = 0
    since: float = field(default_factory=time.perf_counter)
    sharing: int = 1
    """Runs that train in one program: each took its share of the time."""

    def add(self, logs: Mapping[str, Tensor], images: int) -> None:
        for name, value in logs.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.images += images

    def read(self) -> tuple[dict[str, float], dict[str, Any]]:
        """The means and the timing; starts anew."""
        values = torch.stack([v.float() for v in self.sums.values()]).tolist() if self.sums else []
        means = {name: value / self.counts[name] for name, value in zip(self.sums, values, strict=True)}
        seconds = (time.perf_counter() - self.since) / self.sharing
        timing = {"seconds": {"train": seconds}, "images_per_second": self.images / seconds}
        self.reset()
        return means, timing

    def reset(self) -> None:
        self.sums, self.counts, self.images = {}, {}, 0
        self.start()

    def start(self) -> None:
        """The time counts from here on: what went before was no training."""
        self.since = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.since
        return {"sums": self.sums, "counts": self.counts, "images": self.images, "seconds": seconds}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts, self.images = dict(state["counts"]), state["images"]
        self.since = time.perf_counter() - state.get("seconds", 0.0)
