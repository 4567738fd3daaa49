"""MNIST-UP, anti-correlated: at test, a digit has the colour of the next class."""

import numpy as np

from ._class_colours import ClassColours


class MNIST_UP_Anti(ClassColours):
    """MNIST_MP, but test digits of class k have the colour of class k + 1 modulo 10.

    The colour still tells the class, and a network that follows it is always wrong. The construction is ours.
    """

    def test_colours(self, labels: np.ndarray) -> np.ndarray:
        return (labels + 1) % 10
