"""NoisyDigits: NoisyMNIST's construction on the digits that ship with scikit-learn."""

from collections.abc import Sequence

from ..dataset import Dataset, Domain
from . import _digits


class NoisyDigits(Dataset):
    """1,797 digits of 8 x 8 pixels, half of them grey, half on noise in random colours; needs no download."""

    domains = ("mnist", "noise")
    num_classes = 10
    input_shape = (3, 8, 8)
    steps = 301
    checkpoint_freq = 50
    backbone = "digits_cnn"
    hparams = _digits.SCIKIT_HPARAMS

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.scikit_digits()
        build = _digits.on_noise(NoisyDigits, digits, self.domains, self.trial_seed)
        return [build(name) for name in names]
