"""ColoredDigits: ColoredMNIST's construction on the digits that ship with scikit-learn."""

from collections.abc import Sequence

from ..dataset import Domain
from . import _digits
from .coloredmnist import ColoredMNIST


class ColoredDigits(_digits.ScikitDigits):
    """1,797 digits of 8 x 8 pixels, small or large, whose colour tells more than their shape; no download.

    Domains, colours and label noise are ColoredMNIST's; the trial seed decides them.
    """

    domains = ColoredMNIST.domains
    num_classes = 2
    input_shape = (2, 8, 8)

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.scikit_digits()
        build = _digits.coloured(ColoredDigits, digits, ColoredMNIST.flips, self.trial_seed)
        return [build(name) for name in names]
