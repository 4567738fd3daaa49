"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence (Sohn et al., NeurIPS 2020).

arXiv 2001.07685, equations 3 and 4.
Objective as coded, o the logits, x (N rows) the weak view of the labelled images, u and u' (M rows) the weak
and the strong view of the unlabelled ones, p_i = softmax o(u_i), without a gradient:

    L = 1/N sum_i CE(o(x_i), y_i) + unlabelled_weight U
    U = 1/M sum_i [ max p_i >= threshold ] CE(o(u'_i), argmax p_i)

U is a mean over all M rows, not over the kept ones; the network is in training mode for all three passes.
``variant`` "ssdg" is the form of the semi-supervised domain generalization benchmark: the labelled images
stand among the unlabelled ones too, their labels hidden there; each domain passes the network by itself
(so batch-norm statistics are per domain); and the terms of the D domains are summed, not averaged.
Source: the Google and USB repositories (general); Dassl and KaiyangZhou/ssdg-benchmark, StyleMatch v4 (ssdg).
Differs from the paper: the learning rate's schedule and the averaging of weights are options of the run; no
interleaving of labelled and unlabelled rows, x and u' share one pass (general).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..errors import UsageError
from ..hparams import Choice, LogUniform, Option
from ..losses.pseudo_labels import confident, pseudo_label_loss


class Seen(NamedTuple):
    """What the network gives for a batch: N labelled rows, M unlabelled ones, F features, C classes."""

    batch: Batch
    z: Tensor  # (N, F) features of x
    z2: Tensor  # (M, F) features of u2, the strong view
    labelled: Tensor  # (N, C) logits of x
    weak: Tensor  # (M, C) logits of u, without a gradient
    strong: Tensor  # (M, C) logits of u2
    labelled_strong: Tensor | None = None  # (N, C) logits of x2, where a method looks at it
    styled: Tensor | None = None  # (M, C) logits of u in another style, where a method makes it


class Targets(NamedTuple):
    """What the unlabelled rows are trained towards, without a gradient."""

    labels: Tensor  # (M,) int64
    weights: Tensor  # (M,) bool or real, 0: not trained on


class FixMatch(Algorithm):
    """Confident predictions on a weak view are the labels of a strong view.

    Methods that choose, weigh or use pseudo-labels in another way override one of the parts of ``objective``.
    """

    hparams = {
        "unlabelled_weight": (1.0, LogUniform(-1, 1)),
        "threshold": (0.95, Choice((0.8, 0.9, 0.95, 0.98))),
        "variant": ("general", Option(("general", "ssdg"))),
    }
    tasks: ClassVar[tuple[str, ...]] = ("semi_supervised", "domain_adaptation")
    needs: ClassVar[tuple[str, ...]] = ("unlabelled", "strong")
    erm_when: ClassVar[Mapping[str, Any] | None] = {"unlabelled_weight": 0.0}

    @classmethod
    def needed(cls, hp: Mapping[str, Any]) -> tuple[str, ...]:
        return (*cls.needs, *(["strong_labelled"] if hp.get("variant") == "ssdg" else []))

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        if self.ssdg and not problem.unlabelled_are_sources:
            raise UsageError(
                "variant ssdg needs unlabelled images of each source domain; choose from: variant=general"
            )

    @property
    def ssdg(self) -> bool:
        """Whether this is the form of the benchmark for semi-supervised domain generalization."""
        return self.hp["variant"] == "ssdg"

    @property
    def parts(self) -> int:
        """In how many parts a batch passes the network, their terms summed: the domains (ssdg), or one."""
        return self.problem.num_domains if self.ssdg else 1

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        total, logs, _ = self.objective(self.see(batch))
        return total, logs

    def see(self, batch: Batch) -> Seen:
        """The passes through the network."""
        if self.ssdg:
            batch = with_labelled(batch)
        assert batch.u is not None and batch.u2 is not None
        with torch.no_grad():
            weak = self.weak_logits(batch.u)
        if self.ssdg:
            z, z2 = self.encode(batch.x), self.encode(batch.u2)
        else:
            z, z2 = self.features(torch.cat([batch.x, batch.u2])).tensor_split([len(batch.x)])
        return Seen(batch, z, z2, self.logits(z), weak, self.logits(z2))

    def encode(self, x: Tensor) -> Tensor:
        """Features of images (N, ...), domain-major: all at once, or domain by domain (ssdg)."""
        return torch.cat([self.features(part) for part in x.chunk(self.parts)])

    def logits(self, z: Tensor) -> Tensor:
        """What is trained: (N, F) -> (N, C)."""
        return self.classifier(z)

    def weak_logits(self, u: Tensor) -> Tensor:
        """What pseudo-labels are made of: weak views (M, ...) -> (M, C)."""
        return self.classifier(self.encode(u))

    def objective(self, seen: Seen) -> tuple[Tensor, Logs, Targets]:
        """The objective, scalars to log, and the targets of the unlabelled rows."""
        labelled, targets = self.labelled_loss(seen), self.targets(seen)
        unlabelled = self.unlabelled_loss(seen, targets)
        total = self.parts * (labelled + self.hp["unlabelled_weight"] * unlabelled)
        kept = targets.weights.to(labelled.dtype).mean()
        return total, {"labelled": labelled, "unlabelled": unlabelled, "kept": kept}, targets

    def labelled_loss(self, seen: Seen) -> Tensor:
        return cross_entropy(seen.labelled, seen.batch.y)

    def targets(self, seen: Seen) -> Targets:
        """From the weak logits; methods with a running threshold also update it here."""
        return Targets(self.pseudo_labels(seen.weak), self.keep(seen.weak))

    def keep(self, logits: Tensor) -> Tensor:
        """Which rows would be trained on, (M, C) logits of weak views -> (M,) bool; changes no state."""
        return confident(logits, self.hp["threshold"])[1]

    def unlabelled_loss(self, seen: Seen, targets: Targets) -> Tensor:
        return pseudo_label_loss(seen.strong, targets.labels, targets.weights)


def with_labelled(batch: Batch) -> Batch:
    """The labelled rows stand among the unlabelled ones too, in each domain before the others.

    Their ``uidx`` is -1 - idx, which tells them from rows of the unlabelled pool.
    """
    fields = {"u": batch.x, "u2": batch.x2, "ud": batch.d, "uidx": -1 - batch.idx}
    joined: dict[str, Any] = {}
    for name, mine in fields.items():
        theirs = getattr(batch, name)
        assert mine is not None and theirs is not None
        joined[name] = torch.cat([batch.per_domain(mine), batch.per_domain(theirs)], 1).flatten(0, 1)
    return replace(batch, **joined)
