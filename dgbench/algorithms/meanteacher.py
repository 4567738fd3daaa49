"""MeanTeacher: Mean Teachers are Better Role Models (Tarvainen and Valpola, NeurIPS 2017).

arXiv 1703.01780; with confidence thresholding, French et al., ICLR 2018, arXiv 1706.05208.
Objective as coded, p the student's probabilities on the strong views (M, C), t the teacher's on the weak
ones, k_i = [ max_c t_ic > threshold ] (1 for every image at threshold 0):

    L = 1/N sum_i CE(o(x_i), y_i) + unlabelled_weight ( 1/M sum_i k_i |p_i - t_i|^2
          + balance_weight mean(k) 1/C sum_c BCE(mean_i p_ic, 1/C) )

After each update the teacher's parameters become teacher_rate times themselves and the rest of the student's,
with teacher_ramp min(1 - 1/(t + 1), teacher_rate) at update t. Evaluation, and with
it the recorded accuracy of pseudo-labels, is the teacher's or the student's (``predict``).
Source: Transfer-Learning-Library, self_ensembling (weight 3, threshold 0.8, rate 0.99).
Differs from the paper: squared differences are summed over the classes; a weak and a strong view in place of
two noisy ones; of unlabelled images alone, there of labelled ones too; the weight is constant, without a
ramp-up.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..algorithm import Batch, Logs, Problem
from ..hparams import Choice, LogUniform, Option
from ..losses.pseudo_labels import class_balance, confident, consistency
from ..networks.ema import EMATeacher
from .fixmatch import FixMatch, Seen, Targets


class MeanTeacher(FixMatch):
    """The student on strong views agrees with its moving average on weak views."""

    hparams = {
        "unlabelled_weight": (3.0, LogUniform(-1, 1)),
        "threshold": (0.8, Choice((0.0, 0.8, 0.95))),
        "balance_weight": (0.0, None),
        "teacher_rate": (0.99, Choice((0.99, 0.999))),
        "teacher_ramp": (True, None),
        "predict": ("teacher", Option(("teacher", "student"))),
    }
    ssdg = False

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.teacher = EMATeacher(self.student, hp["teacher_rate"], hp["teacher_ramp"])

    @property
    def student(self) -> nn.Module:
        return nn.Sequential(self.featurizer, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        by_teacher = not self.training and self.hp["predict"] == "teacher"
        return self.teacher(x) if by_teacher else super().forward(x)

    def weak_logits(self, u: Tensor) -> Tensor:
        return self.teacher(u)

    def keep(self, logits: Tensor) -> Tensor:
        return confident(logits, self.hp["threshold"], strict=True)[1]

    def unlabelled_loss(self, seen: Seen, targets: Targets) -> Tensor:
        agree = consistency(seen.strong, seen.weak, targets.weights)
        return agree + self.hp["balance_weight"] * class_balance(seen.strong, targets.weights)

    def update(self, batch: Batch) -> Logs:
        logs = super().update(batch)
        self.teacher.move(self.student, self.step)
        return logs
