"""NoisyDigits: NoisyMNIST's construction on the digits that ship with scikit-learn."""

from collections.abc import Sequence

from ..dataset import Domain
from . import _digits


class NoisyDigits(_digits.ScikitDigits):
    """1,797 digits of 8 x 8 pixels, half of them grey, half on noise in random colours; needs no download."""

    domains = ("mnist", "noise")
    input_shape = (3, 8, 8)

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.scikit_digits()
        build = _digits.on_noise(NoisyDigits, digits, self.domains, self.trial_seed)
        return [build(name) for name in names]
