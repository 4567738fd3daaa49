"""What FixMatch adds to its passes through the network."""

import copy
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .. import hparams, registry
from ..algorithm import Batch, Problem
from .ratio import Ratio, alternate

DOMAINS, ROWS = 5, 16


def semi_supervised(turns: int) -> list[Ratio]:
    """An update of FixMatch / three forward passes and one backward, RotatedMNIST's shapes, two_conv."""
    data: Any = registry.find("datasets", "RotatedMNIST")
    method: Any = registry.find("algorithms", "FixMatch")
    sizes = (100,) * DOMAINS
    problem = Problem(data.input_shape, 10, DOMAINS, 100, 100, sizes, sizes, "two_conv")
    ours = method(problem, hparams.resolve(method, data, {}))
    bare = copy.deepcopy(ours)
    x, x2, u, u2 = (torch.rand(DOMAINS * ROWS, *data.input_shape) for _ in range(4))
    d = torch.arange(DOMAINS).repeat_interleave(ROWS)
    y = torch.randint(10, d.shape)
    batch = Batch(x, y, d, d, DOMAINS, x2, u, u2, d, d, DOMAINS)

    def passes() -> None:
        with torch.no_grad():
            labels = bare(u).argmax(1)
        bare.zero_grad(set_to_none=True)
        (cross_entropy(bare(x), y) + cross_entropy(bare(u2), labels)).backward()

    name = f"FixMatch's update / three forward passes and one backward, two_conv, {DOMAINS} x {ROWS}"
    return [alternate(name, lambda: ours.update(batch), passes, turns)]
