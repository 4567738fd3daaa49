"""Metrics of a model on a part."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .algorithm import Algorithm


@torch.inference_mode()
def accuracy(algorithm: Algorithm, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """{"acc": share of images that are classified right, "loss": mean cross-entropy in nats}.

    The model is put in evaluation mode and back. One synchronisation with the device per call.
    """
    training = algorithm.training
    algorithm.eval()
    right, loss, count = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64), 0
    for x, y in batches:
        logits = algorithm(x).float()
        right = right.to(x.device) + (logits.argmax(1) == y).sum()
        loss = loss.to(x.device) + cross_entropy(logits, y, reduction="sum").double()
        count += len(y)
    algorithm.train(training)
    return {"acc": right.item() / count, "loss": loss.item() / count}
