"""ColoredMNIST (Arjovsky et al. 2019, Invariant Risk Minimization, arXiv 1907.02893, section 5.1)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..dataset import Dataset, Domain
from ..hparams import SMALL_IMAGES
from . import _digits


class ColoredMNIST(Dataset):
    """MNIST's 70,000 digits, below five or not, with 25 % of the labels flipped, in two colours.

    The colour agrees with the label in 90 % and 80 % of two domains, and in 10 % of the third.
    Differs from DomainBed: label noise, colours and domains are drawn from the trial seed alone (DomainBed's
    depend on every argument of the run).
    """

    flips: ClassVar[Mapping[str, float]] = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
    """{domain: probability that the colour contradicts the label}"""

    domains = tuple(flips)
    num_classes = 2
    input_shape = (2, 28, 28)
    steps = 5001
    checkpoint_freq = 100
    backbone = "mnist_cnn"
    hparams = SMALL_IMAGES

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.mnist(self.data_dir, "ColoredMNIST")
        build = _digits.coloured(ColoredMNIST, digits, self.flips, self.trial_seed)
        return [build(name) for name in names]
