"""Jigsaw: Domain Generalization by Solving Jigsaw Puzzles, simplified as in RCL (Carlucci et al., CVPR 2019).

arXiv 1903.06864; as a baseline of RCL (Duboudin et al., ICCVW 2021, arXiv 2106.07916, section 5.1).
Objective as coded, x^k the image whose quarters are in the order of permutation k_i ~ U{0..23} (0 = as they
are), features z (N, F), o = classifier(z(x)), q = linear(z(x^k)) (N, 24):

    L = 1/N sum_i CE(o_i, y_i) + jigsaw_weight 1/N sum_i CE(q_i, k_i)

Source: the RCL paper; its authors published no code.
Differs from the paper: RCL's form is 2 x 2 tiles, all 24 permutations, classes of whole images only and a
second forward pass for the puzzle; JiGen has 3 x 3 tiles, 31 permutations, one pass over a mixture of whole
and shuffled images, of which it also learns the class, weights of 0.1 to 0.9 and grey tiles.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..errors import UsageError
from ..hparams import Choice


class Jigsaw(Algorithm):
    """Cross-entropy of the class on whole images, and of the order of the tiles on shuffled ones."""

    hparams = {"jigsaw_weight": (10.0, Choice((0.001, 0.01, 0.1, 1.0, 5.0, 10.0)))}
    erm_when = {"jigsaw_weight": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        _, height, width = problem.input_shape
        if height % 2 or width % 2:
            raise UsageError(f"Jigsaw halves images, which {height} x {width} pixels do not allow")
        orders = torch.tensor(list(permutations(range(4))))
        self.orders: Tensor
        self.register_buffer("orders", orders, persistent=False)  # (24, 4), the first is the identity
        self.order = nn.Linear(self.featurizer.n_outputs, len(orders))

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        k = torch.randint(len(self.orders), batch.y.shape, device=batch.y.device)
        nll = cross_entropy(self(batch.x), batch.y)
        puzzle = cross_entropy(self.order(self.features(shuffled(batch.x, self.orders[k]))), k)
        return nll + self.hp["jigsaw_weight"] * puzzle, {"nll": nll, "puzzle": puzzle}


def shuffled(x: Tensor, orders: Tensor) -> Tensor:
    """Tile t of image i becomes its tile orders[i, t]: (N, C, H, W), (N, 4) -> (N, C, H, W).

    Tiles are the quarters, row by row.
    """
    n, channels, height, width = x.shape
    quarters = x.view(n, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = quarters[torch.arange(n, device=x.device)[:, None], orders]  # (N, 4, C, H/2, W/2)
    return moved.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
