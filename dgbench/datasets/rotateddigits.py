"""RotatedDigits: RotatedMNIST's construction on the digits that ship with scikit-learn."""

from collections.abc import Sequence

from ..dataset import Domain
from . import _digits


class RotatedDigits(_digits.ScikitDigits):
    """1,797 digits of 8 x 8 pixels in six domains, turned by 0 to 75 degrees; needs no download.

    Each image is in exactly one domain, which the trial seed decides.
    """

    domains = ("0", "15", "30", "45", "60", "75")
    input_shape = (1, 8, 8)

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.scikit_digits()
        build = _digits.rotated(RotatedDigits, digits, self.domains, self.trial_seed)
        return [build(name) for name in names]
