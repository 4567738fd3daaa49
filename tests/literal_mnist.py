"""Writes MNIST's four files with random images, in torchvision's layout."""

import gzip
from pathlib import Path

import numpy as np


def write_mnist(
    data_dir: Path, zipped: bool, n: int = 24, train: int = 12, levels: tuple[int, int] = (0, 256)
) -> np.ndarray:
    """n images with labels 0, 1, .. 9, 0, .., the first ``train`` for training; pixels within ``levels``."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    r = np.random.RandomState(0)
    images = (r.randint(*levels, (n, 28, 28)) * r.randint(0, 2, (n, 28, 28))).astype(np.uint8)
    images[:, 0, 0] = levels[1] - 1
    labels = np.arange(n, dtype=np.uint8) % 10
    for part, rows in (("train", slice(train)), ("t10k", slice(train, None))):
        for kind, values in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            data = header + values.tobytes()
            path = raw / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    return images
