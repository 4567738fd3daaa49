"""MNIST-UP, "uncorrelated patterns": at test, a digit has the colour of another class, whichever."""

import numpy as np

from ..hparams import seed_hash
from ._class_colours import ClassColours


class MNIST_UP(ClassColours):
    """MNIST_MP, but each test digit has the colour of one of the nine other classes.

    The class is drawn with equal probability for each digit, from the trial seed. The authors name their
    MNIST-UP and do not describe it; the construction is ours.
    """

    def test_colours(self, labels: np.ndarray) -> np.ndarray:
        r = np.random.RandomState(seed_hash(self.trial_seed, "MNIST_UP"))
        return (labels + r.randint(1, 10, len(labels))) % 10
