"""DSU: Uncertainty Modeling for Out-of-Distribution Generalization (Li et al., ICLR 2022).

arXiv 2202.03958, section 3.
Objective as coded: mean cross-entropy of a network in which, in training, the feature map after each of the
stages ``dsu_layers`` becomes, with probability dsu_p each, per sample i and channel c

    y = (x_i - mu_i) / s_i * (s_i + e_i S(s)) + mu_i + f_i S(mu),    e_i, f_i ~ N(0, 1) per channel

mu_i, s_i = sqrt(var_i + 1e-6): mean and root of the unbiased variance over space (C,); S(v) = sqrt(unbiased
variance of v over the batch + 1e-6): how uncertain the statistic is. All of it is differentiated.
Source: written from the paper.
Differs from the paper: five places in a ResNet (after the stem and after residual stages 1 to 4); the paper
has a sixth, between the first convolution and its max-pooling. Small networks: after each convolution.
"""

from collections.abc import Mapping
from typing import Any

from ..algorithm import Problem
from ..hparams import Uniform
from ..networks.style import Between, StyleNoise
from .erm import ERM


class DSU(ERM):
    """Cross-entropy, with noise on the styles of feature maps."""

    hparams = {"dsu_p": (0.5, Uniform(0.1, 1.0)), "dsu_layers": ("01234", None)}
    erm_when = {"dsu_p": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.featurizer = Between(self.featurizer, StyleNoise(hp["dsu_p"]), hp["dsu_layers"])
