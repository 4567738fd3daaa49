"""Pseudo-labels of unlabelled images, and what a student learns from them."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy

from .precision import full_precision


@full_precision
def confident(logits: Tensor, threshold: float | Tensor, strict: bool = False) -> tuple[Tensor, Tensor]:
    """Pseudo-labels and which of them are kept: (N, C) -> (N,) int64, (N,) bool.

    A label is the most probable class; it is kept if its probability is at least ``threshold``, or above it
    where ``strict`` (the Transfer-Learning-Library's rule).
    """
    confidence, labels = logits.softmax(1).max(1)
    return labels, confidence > threshold if strict else confidence >= threshold


@full_precision
def pseudo_label_loss(strong: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """1/N sum_i w_i CE(strong_i, labels_i): the mean over all rows, not over the kept ones.

    strong (N, C) logits, labels (N,) int64, weights (N,), bool or real. FixMatch's unlabelled term (Sohn et
    al., NeurIPS 2020, arXiv 2001.07685, equation 4).
    """
    return (weights * cross_entropy(strong, labels, reduction="none")).mean()


@full_precision
def consistency(student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """1/N sum_i kept_i |softmax(student_i) - softmax(teacher_i)|^2, for logits (N, C) and kept (N,)."""
    return (kept * (student.softmax(1) - teacher.softmax(1)).square().sum(1)).mean()


@full_precision
def class_balance(student: Tensor, kept: Tensor) -> Tensor:
    """The share of kept rows times the binary cross-entropy of the mean prediction with 1/C, the mean over C.

    student (N, C) logits. Source: French et al., ICLR 2018, arXiv 1706.05208, as coded in the
    Transfer-Learning-Library.
    """
    mean = student.softmax(1).mean(0)
    uniform = torch.full_like(mean, 1 / len(mean))
    return kept.to(mean.dtype).mean() * binary_cross_entropy(mean, uniform)
