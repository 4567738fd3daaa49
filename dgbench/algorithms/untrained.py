"""Untrained: features of the network as it starts, random or pretrained; the row that training must beat.

No arXiv id. Objective as coded: L = 0; no parameter moves. The embedding is featurizer(x) (N, F).
Source: none; a floor for retrieval. Differs from the paper: there is none.
"""

from torch import Tensor

from ..algorithm import Algorithm, Batch, Logs


class Untrained(Algorithm):
    """Zero updates: what the initial weights give."""

    tasks = ("retrieval",)
    needs = ("unlabelled",)
    quirks = {"unmoved": ".*"}

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    def update(self, batch: Batch) -> Logs:
        return {"loss": batch.x.new_zeros(())}
