"""DeFixMatch: Don't Fear the Unlabelled, Safe Semi-supervised Learning via Debiasing (Schmutz et al., ICLR 2023).

arXiv 2203.07512.
Objective as coded, with FixMatch's unlabelled term U of the unlabelled images and the same term A of the
labelled ones (their pseudo-labels, not their labels), x and x' the weak and strong views of these:

    L = 1/2N sum_i [ CE(o(x_i), y_i) + CE(o(x'_i), y_i) ] + unlabelled_weight (U - A)

A makes the risk's estimate unbiased; L can be negative.
Source: USB, algorithms/defixmatch.
Differs from the paper: nothing known.
"""  # noqa: E501

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import Batch
from ..hparams import LogUniform
from ..losses.pseudo_labels import pseudo_label_loss
from .fixmatch import FixMatch, Seen, Targets


class DeFixMatch(FixMatch):
    """FixMatch, less its unlabelled term on the labelled images."""

    hparams = {
        "unlabelled_weight": (0.5, LogUniform(-1, 0)),
        "threshold": FixMatch.hparams["threshold"],
    }
    needs = (*FixMatch.needs, "strong_labelled")
    erm_when: ClassVar[Mapping[str, Any] | None] = None
    ssdg = False  # that form adds the term which this method takes away

    def see(self, batch: Batch) -> Seen:
        assert batch.x2 is not None
        return super().see(batch)._replace(labelled_strong=self.logits(self.features(batch.x2)))

    def labelled_loss(self, seen: Seen) -> Tensor:
        assert seen.labelled_strong is not None
        strong = cross_entropy(seen.labelled_strong, seen.batch.y)
        return (super().labelled_loss(seen) + strong) / 2

    def unlabelled_loss(self, seen: Seen, targets: Targets) -> Tensor:
        assert seen.labelled_strong is not None
        weak = seen.labelled.detach()
        own = pseudo_label_loss(seen.labelled_strong, weak.argmax(1), self.keep(weak))
        return super().unlabelled_loss(seen, targets) - own
