"""Untrained: what the weights give that a run starts from, random or pretrained (no paper, 2026).

No arXiv id. Objective as coded: L = 0; no parameter moves. The embedding is featurizer(x) (N, F).
Source: none; the floor of every table of retrieval.
Differs from the paper: there is none.
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
