"""SCALE: Semantic Contrast-Aware Learning for Domain-Adaptive Image Classification (Li et al., 2024).

No arXiv id; Algorithm 1 and section 4. The text has no date, its latest reference is of 2024.
Objective as coded, source rows x (N), weak and strong views u, u2 of target rows (M); student and its EMA
teacher, each featurizer, classifier g and projection head h; q = h(z) / |h(z)|; pseudo-label c_j and
confidence p_j by the teacher on u_j, k_j = [p_j > threshold]; K classes:

    L = 1/N sum_i CE(g(z_i), y_i) + unlabelled_weight * 1/M sum_j k_j CE(g(z(u2_j)), c_j)
        + cl_weight * (sum_i l(q_i, y_i) + sum_j k_j l(q(u2_j), c_j)) / (N + sum_j k_j)
        + reg_weight * 1/2 (r(mean_i q_i) + r(mean_j q(u2_j)))
    l(q, y) = log sum_k exp(q.mu_k / t + q^T S_k q / (2 t^2)) - q.mu_y / t,    t = temperature
    r(q) = -1/K sum_k log softmax_k(q.mu_k / reg_temperature)

mu_k, S_k: mean and covariance of the teacher's q on the source rows of class k so far, updated with every
batch before they are used, without a gradient. contrast: "dist_diag" has the diagonal of S_k, "dist_full" all
of it, "proto" none (ProtoCL), "bank" instead the last 200 batch centroids of a class (BankCL). The last two
terms begin after the share warmup of all updates. The teacher moves before each update, by
alpha_t = min(1 - 1 / (t + 1), teacher_rate). A weight of 0 takes its term away; three of them, source only.
Source: the paper; where it says nothing, SePiCo's code (arXiv 2204.08808), on which the paper builds.
Differs from the paper: where it leaves something open or contradicts itself:
- The target term is cross-entropy in one place, a squared difference of predictions in another; here the
  former, on the strong view, over all M rows.
- t, warm-up, alpha, batch size, optimizer, augmentation and whether q has unit length are not given: here t
  as reg_temperature, SePiCo's alpha and unit length, on Office data the optimizer of TLL's FixMatch.
- Algorithm 1 updates the statistics online, the discussion says they need the whole source; here the former.
- r has the paper's sign, the opposite of SePiCo's code (reg_form "sepico").
- Of the ablation's two rows with CE alone and different scores, one presumably has the target term as well.
- The default contrast has the diagonal of S_k, as SePiCo's code; the paper has all of it (dist_full).
- The teacher moves before an update, in Algorithm 1 after it.
- Pixels and class-balanced crops belong to segmentation; here an image is one query.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform, Option, Uniform, on_office, on_small_images
from ..losses.class_statistics import ClassBank, ClassStatistics
from ..losses.memory import unit
from ..losses.pseudo_labels import confident, pseudo_label_loss
from ..losses.semantic_contrast import SPREADS, bank_contrast, class_contrast, spread
from ..networks.ema import EMATeacher
from ..networks.heads import projector

CONTRASTS = ("dist_diag", "dist_full", "proto", "bank")
WIDTH, CENTROIDS = 128, 200


class SCALE(Algorithm):
    """Self-training with an EMA teacher, and contrast with the distributions of the source's classes."""

    hparams = {
        "unlabelled_weight": (1.0, LogUniform(-1, 1)),
        "cl_weight": (1.0, LogUniform(-1, 1)),
        "reg_weight": (1.0, LogUniform(-1, 1)),
        "contrast": ("dist_diag", Option(CONTRASTS)),
        "threshold": (0.8, Uniform(0.5, 0.98)),
        "temperature": (0.1, LogUniform(-1.5, 0)),
        "reg_temperature": (0.1, LogUniform(-1.5, 0)),
        "reg_form": ("scale", Option(SPREADS)),
        "teacher_rate": (0.999, None),
        "warmup": (0.1, None),
    }
    hparams_on = {
        **on_office(lr=3e-3, lr_gamma=4e-4, weight_decay=1e-3),
        **on_small_images({"teacher_rate": (0.99, None)}),  # their runs have few updates
    }
    own_classifier = True
    tasks = ("domain_adaptation",)
    needs = ("unlabelled", "strong")
    erm_when = {"unlabelled_weight": 0.0, "cl_weight": 0.0, "reg_weight": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        f, classes = self.featurizer.n_outputs, problem.num_classes
        self.classifier = projector(f, classes)
        self.projection = projector(f, WIDTH)
        self.teacher = EMATeacher(self.student, hp["teacher_rate"], ramp=True)
        self.statistics = ClassStatistics(classes, WIDTH, full=hp["contrast"] == "dist_full")
        self.bank = ClassBank(classes, WIDTH, CENTROIDS) if hp["contrast"] == "bank" else None

    @property
    def student(self) -> nn.ModuleDict:
        """What the teacher is an average of."""
        names = ("featurizer", "classifier", "projection")
        return nn.ModuleDict({name: getattr(self, name) for name in names})

    def update(self, batch: Batch) -> Logs:
        self.teacher.move(self.student, self.step)
        return super().update(batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        hp = self.hp
        z = self.features(batch.x)
        ce = cross_entropy(self.classifier(z), batch.y)
        if not (hp["unlabelled_weight"] or hp["cl_weight"] or hp["reg_weight"]):
            return ce, {}
        assert batch.u is not None and batch.u2 is not None
        pseudo, kept = self.teach(batch)
        z_target = self.features(batch.u2)
        ssl = pseudo_label_loss(self.classifier(z_target), pseudo, kept)
        q, q_target = (unit(self.projection(each)) for each in (z, z_target))
        labels, counted = torch.cat((batch.y, pseudo)), torch.cat((torch.ones_like(batch.y), kept))
        cl = (counted * self.contrast(torch.cat((q, q_target)), labels)).sum() / counted.sum()
        reg = (self.spread(q) + self.spread(q_target)) / 2
        begun = self.step >= hp["warmup"] * self.problem.num_steps
        loss = ce + hp["unlabelled_weight"] * ssl + begun * (hp["cl_weight"] * cl + hp["reg_weight"] * reg)
        return loss, {"ce": ce, "ssl": ssl, "cl": cl, "reg": reg, "kept": kept.to(ce.dtype).mean()}

    @torch.no_grad()
    def teach(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's part: pseudo-labels (M,) of u and whether they are kept; the source's statistics."""
        net: Any = self.teacher.net
        q = unit(net.projection(net.featurizer(batch.x)))
        self.statistics.update(q, batch.y)
        if self.bank is not None:
            self.bank.update(q, batch.y)
        return confident(net.classifier(net.featurizer(batch.u)), self.hp["threshold"], strict=True)

    def contrast(self, q: Tensor, y: Tensor) -> Tensor:
        """l of each query (N, d) of unit length: (N,)."""
        t, statistics = self.hp["temperature"], self.statistics
        if self.bank is not None:
            return bank_contrast(q, y, self.bank.centroids, t)
        covariance = None if self.hp["contrast"] == "proto" else statistics.covariance
        return class_contrast(q, y, statistics.mean, covariance, t)

    def spread(self, q: Tensor) -> Tensor:
        """r of the mean of queries (N, d)."""
        return spread(q, self.statistics.mean, self.hp["reg_temperature"], self.hp["reg_form"])
