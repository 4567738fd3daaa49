"""NoisyMNIST: MNIST, and MNIST on a background of noise in a random colour."""

from collections.abc import Sequence

from ..dataset import Dataset, Domain
from ..hparams import SMALL_IMAGES
from . import _digits


class NoisyMNIST(Dataset):
    """MNIST's 70,000 digits, half of them grey, half on noise in random colours; each image in one domain.

    A construction of our own after MNIST-M (Ganin and Lempitsky, ICML 2015), whose backgrounds are photos.
    """

    domains = ("mnist", "noise")
    num_classes = 10
    input_shape = (3, 28, 28)
    steps = 5001
    checkpoint_freq = 100
    backbone = "mnist_cnn"
    hparams = SMALL_IMAGES

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.mnist(self.data_dir, "NoisyMNIST")
        build = _digits.on_noise(NoisyMNIST, digits, self.domains, self.trial_seed)
        return [build(name) for name in names]
