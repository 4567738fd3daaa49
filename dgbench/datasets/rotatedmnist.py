"""RotatedMNIST (Ghifary et al., ICCV 2015, arXiv 1508.07680), as DomainBed builds it."""

from collections.abc import Sequence

from ..dataset import Dataset, Domain
from ..hparams import SMALL_IMAGES
from . import _digits


class RotatedMNIST(Dataset):
    """MNIST's 70,000 digits in six domains, turned by 0, 15, ... 75 degrees; each image is in one domain.

    Differs from DomainBed: which image is in which domain is drawn from the trial seed alone (DomainBed's
    draw depends on every argument of the run).
    """

    domains = ("0", "15", "30", "45", "60", "75")
    num_classes = 10
    input_shape = (1, 28, 28)
    steps = 5001
    checkpoint_freq = 100
    backbone = "mnist_cnn"
    hparams = SMALL_IMAGES

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits = _digits.mnist(self.data_dir, "RotatedMNIST")
        build = _digits.rotated(RotatedMNIST, digits, self.domains, self.trial_seed)
        return [build(name) for name in names]
