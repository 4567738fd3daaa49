"""Digits and the constructions on them: rotated and coloured (DomainBed, datasets.py), on noise.

Differs from DomainBed: every random part is drawn from the trial seed, so that all methods of a trial see
the same images. DomainBed draws from the global generator, seeded by a hash of all arguments of the run,
so that each run sees different ones.
"""

import gzip
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ..dataset import Dataset, Domain
from ..errors import UsageError
from ..hparams import SMALL_IMAGES, Declared, LogUniform, seed_hash

MNIST_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class ScikitDigits(Dataset):
    """How the data sets made of scikit-learn's digits are trained on."""

    num_classes = 10
    steps = 301
    checkpoint_freq = 50
    backbone = "digits_cnn"
    hparams: ClassVar[Declared] = {
        **SMALL_IMAGES,
        "batch_size": (32, LogUniform(3, 5.5, base=2, integer=True)),  # a domain has some 300 images
    }


class Digits(NamedTuple):
    """images: uint8 (n, H, W). labels: int64 (n,), 0..9. digest: SHA-256 of both."""

    images: np.ndarray
    labels: np.ndarray
    digest: str


def _digits(images: np.ndarray, labels: np.ndarray) -> Digits:
    labels = labels.astype(np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return Digits(images, labels, digest)


@cache
def scikit_digits() -> Digits:
    """The 1,797 digits of 8 x 8 pixels that ship with scikit-learn, grey levels 0..16 scaled to 0..255."""
    found = find_spec("sklearn")  # without importing it, which takes a second
    assert found is not None and found.origin is not None
    rows = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = rows[:, :-1].reshape(-1, 8, 8)
    return _digits(np.round(images * (255 / 16)).astype(np.uint8), rows[:, -1])


def mnist(data_dir: Path | None, dataset: str) -> Digits:
    """The 60,000 training and then the 10,000 test images of MNIST, 28 x 28 pixels.

    Read from torchvision's layout, ``data_dir/MNIST/raw/*-ubyte`` or ``*-ubyte.gz``. ``dataset`` is the name
    that an error's advice uses.
    """
    raw = (data_dir or Path("DATA_DIR")) / "MNIST" / "raw"
    paths = [
        next(filter(Path.is_file, (raw / f"{f}-ubyte", raw / f"{f}-ubyte.gz")), None) for f in MNIST_FILES
    ]
    if data_dir is None or None in paths:
        where = data_dir or "DIR"
        raise UsageError(
            f"{dataset} needs the four files of MNIST in {raw}; "
            f"get them: python -m dgbench.download --dataset {dataset} --data_dir {where}"
        )
    train_x, train_y, test_x, test_y = (read_idx(path) for path in paths if path is not None)
    return _digits(np.concatenate([train_x, test_x]), np.concatenate([train_y, test_y]))


def read_idx(path: Path) -> np.ndarray:
    """A uint8 array in MNIST's IDX format, possibly gzipped: 0, 0, 8, rank, big-endian sizes, values."""
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        rank = data[3] if data[:3] == b"\0\0\x08" else 0
        shape = np.frombuffer(data, ">i4", rank, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape if rank else (-1, 0))
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it and download it again") from None


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images (n, H, W) turned counter-clockwise about their centre: bilinear, zero outside, uint8.

    The same as Pillow's ``rotate(degrees, BILINEAR)`` up to one grey level: a pixel whose source lies
    outside the image is zero, neighbours outside are those at the edge, fractions are cut.
    """
    if degrees % 360 == 0:
        return images.copy()
    height, width = images.shape[1:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dy, dx = np.mgrid[:height, :width] + 0.5 - np.array([height, width]).reshape(2, 1, 1) / 2
    x = (cos * dx - sin * dy + width / 2).ravel()  # source of every output pixel; pixel 0 covers [0, 1)
    y = (sin * dx + cos * dy + height / 2).ravel()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    fx, fy = x - 0.5 - left, y - 0.5 - top
    pixels = np.ascontiguousarray(images.reshape(len(images), -1).T)  # (H * W, n): a pixel is a row
    total = np.zeros(pixels.shape, np.float32)
    for column, wx in ((left, 1 - fx), (left + 1, fx)):
        for row, wy in ((top, 1 - fy), (top + 1, fy)):
            at = row.clip(0, height - 1).astype(int) * width + column.clip(0, width - 1).astype(int)
            total += pixels[at] * (wx * wy * inside).astype(np.float32)[:, None]
    # float32 may fall just short of the integer that the weighted mean is
    return (total + 1e-3).astype(np.uint8).T.reshape(images.shape)


def rotated(
    dataset: type, digits: Digits, domains: Sequence[str], trial_seed: int
) -> Callable[[str], Domain]:
    """A function from a domain's name, its angle in degrees, to the domain: images[i::number of domains]."""
    order = np.random.RandomState(seed_hash(trial_seed, dataset.__name__)).permutation(len(digits.labels))

    def build(name: str) -> Domain:
        own = order[domains.index(name) :: len(domains)]
        images = rotate(digits.images[own], float(name))[..., None]
        return Domain(name, images, digits.labels[own], _fingerprint(digits, dataset, name))

    return build


def coloured(
    dataset: type, digits: Digits, flips: Mapping[str, float], trial_seed: int
) -> Callable[[str], Domain]:
    """A function from a domain's name to the domain of ColoredMNIST (Arjovsky et al. 2019, section 5.1).

    flips: {domain: probability that the colour contradicts the label}. The label is (digit < 5), flipped
    with probability 0.25. Images (n, H, W, 2): the digit is in the channel of its colour, the other is zero.
    """
    order = np.random.RandomState(seed_hash(trial_seed, dataset.__name__)).permutation(len(digits.labels))
    domains = list(flips)

    def build(name: str) -> Domain:
        own = order[domains.index(name) :: len(domains)]
        r = np.random.RandomState(seed_hash(trial_seed, dataset.__name__, name))
        labels = (digits.labels[own] < 5) ^ (r.uniform(size=len(own)) < 0.25)
        colours = labels ^ (r.uniform(size=len(own)) < flips[name])
        images = digits.images[own][..., None] * (colours[:, None] == np.arange(2))[:, None, None]
        return Domain(name, images, labels.astype(np.int64), _fingerprint(digits, dataset, name))

    return build


def on_noise(
    dataset: type, digits: Digits, domains: Sequence[str], trial_seed: int
) -> Callable[[str], Domain]:
    """A function from a domain's name to the domain: the first as they are, the second on coloured noise.

    Each image is in one domain. Images (n, H, W, 3), grey in the first. In the second an image has a colour,
    each of its pixels a brightness, and the digit inverts what it covers, |colour brightness - digit|, as in
    MNIST-M (Ganin and Lempitsky, ICML 2015, section 4).
    """
    order = np.random.RandomState(seed_hash(trial_seed, dataset.__name__)).permutation(len(digits.labels))

    def build(name: str) -> Domain:
        own = order[domains.index(name) :: len(domains)]
        images = np.repeat(digits.images[own][..., None], 3, axis=3)
        if name == domains[1]:
            r = np.random.RandomState(seed_hash(trial_seed, dataset.__name__, name))
            colours = r.uniform(size=(len(own), 1, 1, 3)).astype(np.float32)
            for part in np.array_split(np.arange(len(own)), -(-len(own) // 4096)):  # a part fits a cache
                brightness = r.randint(256, size=(*images[part].shape[:3], 1)).astype(np.float32)
                images[part] = np.abs(colours[part] * brightness - images[part]).astype(np.uint8)
        return Domain(name, images, digits.labels[own], _fingerprint(digits, dataset, name))

    return build


def _fingerprint(digits: Digits, dataset: type, domain: str) -> str:
    """Of the content before the trial's draws, so that it is the same for all trials."""
    return hashlib.sha256(f"{digits.digest} {dataset.__name__} {domain}".encode()).hexdigest()
