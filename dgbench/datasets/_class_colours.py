"""Digits in the colours of their classes (Duboudin et al., Look Beyond Bias, MNIST "Missing-Patterns").

The colours are those of the authors' repository, https://github.com/liris-tduboudin/Look-Beyond-Bias. They
are the paper's construction: six on a sphere around their mean, four on vertices of a cube around it.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ..dataset import Dataset, Domain
from ..hparams import OPTIMIZERS, SMALL_IMAGES, Declared
from . import _digits

SPHERE = {
    0: (255, 127, 127),
    1: (0, 127, 127),
    2: (127, 255, 127),
    3: (127, 0, 127),
    4: (127, 127, 255),
    5: (127, 127, 0),
}
CUBE = {6: (0, 255, 255), 7: (255, 0, 0), 8: (255, 0, 255), 9: (0, 255, 0)}
PALETTE = np.array([{**SPHERE, **CUBE}[label] for label in range(10)])  # (10, 3): the RGB colour of a class
MEAN = PALETTE.mean(0)  # (3,): 127.3 in each channel, the colour of the test digits

PUBLISHED: Declared = {
    **SMALL_IMAGES,
    "batch_size": (128, SMALL_IMAGES["batch_size"][1]),
    "weight_decay": (1e-5, None),
    "optimizer": ("sgd", OPTIMIZERS),
    "momentum": (0.9, None),
    "nesterov": (True, None),
}
"""The paper's training: SGD with learning rate 1e-3, the same for all methods."""


def paint(images: np.ndarray, colours: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Grey images (n, H, W) in colours (K, 3), choice (n,) in 0..K-1 says which: uint8 (n, H, W, 3).

    A grey level g of 0..255 becomes g / 255 times the colour, so the background stays black.
    """
    levels = np.rint(np.arange(256)[:, None] * colours[:, None] / 255).astype(np.uint8)  # (K, 256, 3)
    painted = np.empty((*images.shape, 3), np.uint8)
    for k in range(len(colours)):
        rows = np.flatnonzero(choice == k)
        painted[rows] = levels[k][images[rows]]
    return painted


def updates(epochs: int, images: int, batch_size: int) -> int:
    """Updates of so many epochs, and the one that the first evaluation follows."""
    return epochs * math.ceil(images / batch_size) + 1


class ClassColours(Dataset):
    """Training and validation digits have the colour of their class; test digits are the validation digits
    in another colour, which ``test_colours`` chooses.

    MNIST's 60,000 training and 10,000 test images, in [-1, 1]; 10 epochs, evaluated after each.
    """

    domains = ("train", "validation", "test")
    columns: ClassVar[Mapping[str, str]] = {"validation": "Validation", "test": "Test"}
    validation = "validation"
    sampling = "epochs"
    num_classes = 10
    input_shape = (3, 28, 28)
    mean_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    steps = updates(epochs=10, images=60_000, batch_size=128)
    checkpoint_freq = updates(epochs=1, images=60_000, batch_size=128) - 1
    backbone = "two_conv"
    hparams = PUBLISHED
    colours: ClassVar[np.ndarray] = np.vstack([PALETTE, MEAN])
    """(K, 3), those of the classes first."""

    def digits(self) -> tuple[_digits.Digits, np.ndarray, np.ndarray]:
        """All digits, and the rows that are trained on and that are not."""
        digits = _digits.mnist(self.data_dir, type(self).__name__)
        cut = len(digits.labels) * 6 // 7  # the 60,000 training images come first
        return digits, np.arange(cut), np.arange(cut, len(digits.labels))

    def test_colours(self, labels: np.ndarray) -> np.ndarray:
        """The row of ``colours`` that each test digit has: (n,) -> (n,)."""
        raise NotImplementedError

    def load(self, names: Sequence[str]) -> list[Domain]:
        digits, training, held_out = self.digits()

        def build(name: str) -> Domain:
            rows = training if name == "train" else held_out
            labels = digits.labels[rows]
            choice = self.test_colours(labels) if name == "test" else labels
            told = f"{digits.digest} {type(self).__name__} {name}"
            return Domain(
                name,
                paint(digits.images[rows], self.colours, choice),
                labels,
                hashlib.sha256(told.encode()).hexdigest(),
            )

        return [build(name) for name in names]
