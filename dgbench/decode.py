"""Image files to uint8 arrays: in parallel, or one by one when they are asked for."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from . import progress
from .errors import UsageError
from .process import cores

VERSION = 3
"""Raised when decoded pixels or their order in memory change."""
BLOCK = 256  # images in flight, so that memory stays small however large the data set
T = TypeVar("T")


class Decoded(NamedTuple):
    """images: uint8 (n, size, size, 3), in memory as planes (``planes``).

    sizes: int32 (n, 2), original width and height.
    fingerprint: SHA-256 over the files' relative paths and contents.
    """

    images: np.ndarray
    sizes: np.ndarray
    fingerprint: str


class File(NamedTuple):
    """One image file. pixels: uint8 (size, size, 3). size: original (width, height). sha256: of the file."""

    pixels: np.ndarray
    size: tuple[int, int]
    sha256: str


def decode(path: Path, size: int) -> File:
    """The whole image as RGB of size x size pixels, whatever its aspect.

    The same as torchvision's ``Resize((size, size))`` of a Pillow image (bilinear, antialiased) of 8 bits.
    ``UsageError`` names a file that cannot be decoded.
    """
    with _named(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            resized = rgb(image).resize((size, size), Image.Resampling.BILINEAR)
            return File(np.asarray(resized), image.size, hashlib.sha256(data).hexdigest())


def rgb(image: Image.Image) -> Image.Image:
    """The image with 8 bits a colour; of 16 the upper ones, where Pillow alone would cut grey at 255."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its greys have 32 bits, of which Pillow would cut all above 255; save it with 8")
    return image.convert("RGB")


def inspect(path: Path) -> tuple[tuple[int, int], str]:
    """The (width, height) and the SHA-256 of an image file, without decoding its pixels."""
    with _named(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return image.size, hashlib.sha256(data).hexdigest()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns any error of Pillow's decoders, which raise many types, into one that names the file."""
    try:
        yield
    except Exception as error:
        advice = "delete it or get the data again"
        raise UsageError(f"cannot decode the image {path} ({error}); {advice}") from error


@dataclass(frozen=True)
class ImageFiles:
    """Image files under ``root``, in a fixed order, to be decoded to size x size pixels.

    name: shown while decoding.
    """

    name: str
    root: Path
    paths: Sequence[Path]
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), self.size, self.size, 3)

    def relative(self) -> list[str]:
        """Paths below ``root``, with forward slashes."""
        below = self.root.as_posix().rstrip("/") + "/"  # relative_to takes a tenth of a second for PACS
        return [path.as_posix().removeprefix(below) for path in self.paths]

    def fingerprint(self, hashes: Sequence[str]) -> str:
        """SHA-256 over relative paths and contents, whatever the files' order."""
        return hashlib.sha256(
            json.dumps(sorted(zip(self.relative(), hashes, strict=True))).encode()
        ).hexdigest()

    def decode_to(self, take: Callable[[int, np.ndarray], object]) -> tuple[np.ndarray, str]:
        """Call ``take(i, pixels)`` for every image in order; returns the sizes and the fingerprint."""
        sizes, hashes = [], []
        for i, file in enumerate(parallel(lambda path: decode(path, self.size), self.paths, self.name)):
            take(i, file.pixels)
            sizes.append(file.size)
            hashes.append(file.sha256)
        return np.array(sizes, np.int32), self.fingerprint(hashes)

    def to_memory(self) -> Decoded:
        """All images in memory."""
        images = planes(len(self.paths), self.size)
        return Decoded(images, *self.decode_to(images.__setitem__))

    def encoded(self) -> "Decoded":
        """Images that are decoded when they are indexed; every file is read once here, to be hashed."""
        sizes, hashes = zip(*parallel(inspect, self.paths, self.name), strict=True)
        images: Any = EncodedImages(self)
        return Decoded(images, np.array(sizes, np.int32), self.fingerprint(hashes))


class EncodedImages:
    """Image files in the place of an array (n, size, size, 3): indexing decodes."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self.shape = files.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.asarray(np.arange(len(self))[index])
        out = planes(rows.size, self.files.size)
        for i, row in enumerate(rows.ravel()):
            out[i] = decode(self.files.paths[row], self.files.size).pixels
        return out.reshape(*rows.shape, *self.shape[1:])


def planes(n: int, size: int) -> np.ndarray:
    """An array (n, size, size, 3) for images whose colours lie in planes one after another."""
    return np.empty((n, 3, size, size), np.uint8).transpose(0, 2, 3, 1)


def parallel(function: Callable[[Path], T], paths: Sequence[Path], title: str) -> Iterator[T]:
    """``function`` of every path, in order, by threads; a progress bar when it takes long."""
    shown = progress.bar(title, len(paths), "file")
    with shown, ThreadPoolExecutor(_workers()) as pool:  # Pillow and hashlib release the interpreter's lock
        for start in range(0, len(paths), BLOCK):
            for result in pool.map(function, paths[start : start + BLOCK]):
                shown.update()
                yield result


def _workers() -> int:
    return min(16, cores())
