"""DANN_UDA: Domain-Adversarial Training of Neural Networks, adapting (Ganin et al., JMLR 2016).

arXiv 1505.07818, equation 9.
Objective as coded, source rows x (N), target rows u (M) in one forward pass, z = bottleneck(featurizer(.))
(N + M, F), R the gradient reversal, discriminator D:

    L = 1/N sum_i CE(classifier(z_i), y_i) + trade_off * 1/2 (mean over the source of -log D(R(z))
        + mean over the target of -log(1 - D(R(z))))

R multiplies the gradient by -c_t, c_t = 2 / (1 + exp(-t / reversal_steps)) - 1 at update t. D: two layers of
mlp_width units with batch norm, over both domains, and a sigmoid. trade_off 0 never looks at the target.
Source: TLL, examples dann.py, dann.py, grl.py; its values for Office-Home are the defaults there and on
Office-31. ``DANN`` is DomainBed's method for several labelled sources: turns of two optimizers instead of a
reversed gradient, a discriminator between the sources, no target; hence two files.
Differs from the paper: c_t grows with the updates made, to 0.46 at 1,000 and 0.99 at 5,000, not with the
share of the training; a bottleneck with batch norm.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..algorithm import Problem
from ..hparams import on_office, on_small_images
from ..losses.adversarial import domain_loss, reverse_gradient, warm_start
from ..networks.heads import discriminator
from .dan import DAN, TRANSFER

ADVERSARY = {**TRANSFER, "mlp_width": (1024, None), "reversal_steps": (1000, None)}
TLL = on_office(lr=0.01, lr_gamma=1e-3, weight_decay=1e-3)


class DANN_UDA(DAN):
    """A discriminator tells source from target by the features; the reversed gradient prevents it."""

    hparams = ADVERSARY
    hparams_on = {**TLL, **on_small_images({"mlp_width": (256, None)})}
    batch_norm = True

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.discriminator = discriminator(self.discriminator_inputs(), hp["mlp_width"])

    def discriminator_inputs(self) -> int:
        """Width of what the discriminator sees."""
        return self.hp["bottleneck"]

    def transfer(self, z: Tensor, logits: Tensor, n: int) -> Tensor:
        return domain_loss(self.judged(z), n)

    def judged(self, h: Tensor) -> Tensor:
        """(N, H) -> the discriminator's logits (N,), its gradient reversed."""
        coefficient = warm_start(self.step, over=self.hp["reversal_steps"])
        return self.discriminator(reverse_gradient(h, coefficient)).squeeze(1)
