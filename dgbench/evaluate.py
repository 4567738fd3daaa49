"""Metrics of a model on a part."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .algorithm import Algorithm
from .label_free import validators

PSEUDO_LABELLED = 2000
"""Unlabelled images per source whose pseudo-labels are recorded: a share is then right within 1 %."""


@torch.inference_mode()
def accuracy(
    algorithm: Algorithm, batches: Iterable[tuple[Tensor, Tensor]], label_free: bool = False
) -> dict[str, float]:
    """{"acc": share of images that are classified right, "loss": mean cross-entropy in nats}.

    label_free: also ``validators``, which do not read the labels.

    The model is put in evaluation mode and back. One synchronisation with the device per call.
    """
    right: Tensor | float = 0.0
    loss: Tensor | float = 0.0
    count, seen = 0, []
    for logits, y in predictions(algorithm, batches):
        right = right + (logits.argmax(1) == y).sum()
        loss = loss + cross_entropy(logits, y, reduction="sum").double()
        count += len(y)
        seen += [logits] if label_free else []
    found = {"acc": float(right) / count, "loss": float(loss) / count}
    return found | (validators(torch.cat(seen)) if label_free else {})


@torch.inference_mode()
def pseudo_labels(algorithm: Algorithm, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """How good a method's pseudo-labels are: {"pseudo_acc", "keep", and "kept_acc" where any is kept}.

    "keep": share of the images that it would train on now; "pseudo_acc" and "kept_acc": share whose label
    would be right, of all and of the kept ones. Empty for a method without pseudo-labels.
    """
    zero: Tensor | float = 0.0
    right, kept, both, count = zero, zero, zero, 0
    for logits, y in predictions(algorithm, batches):
        keeps = algorithm.keep(logits)
        if keeps is None:
            return {}
        hit = algorithm.pseudo_labels(logits) == y
        right, kept, both = right + hit.sum(), kept + keeps.sum(), both + (hit & keeps).sum()
        count += len(y)
    found = {"pseudo_acc": float(right) / count, "keep": float(kept) / count}
    return found | ({"kept_acc": float(both) / float(kept)} if kept else {})


def predictions(
    algorithm: Algorithm, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits in float32, y) of each batch; the model is in evaluation mode meanwhile."""
    training = algorithm.training
    algorithm.eval()
    try:
        for x, y in batches:
            yield algorithm(x).float(), y
    finally:
        algorithm.train(training)
