"""Images that are in a data set twice: the same file, the same pixels, or nearly the same picture.

Nearly the same: the 8 x 8 lowest frequencies (cosine transform of the 32 x 32 grey image), each above or
below their median (Zauner 2010), differ in at most ``DISTANCE`` of 64 places, and the grey images correlate
by ``CORRELATION`` at least. On PACS the first alone pairs thousands of unrelated drawings on white, the
second alone pairs sketches of different guitars; both together leave 31 pairs, eight of them such
sketches, the others the same picture, recoloured or photographed twice.
The package imagehash has this hash too, as one object an image: comparing 10,000 of them takes it a minute
and a half, ours a quarter of a second, and it needs scipy and PyWavelets.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .decode import parallel, rgb

DISTANCE = 10
CORRELATION = 0.95
SIDE = 32  # pixels of the grey image
BLOCK = 1 << 24  # hashes compared at once
LARGE = 100  # members of a group from which only pairs with its first are listed


class Pair(NamedTuple):
    """Two images, i < j. kind: "files", "pixels" or "near"."""

    i: int
    j: int
    kind: str


@dataclass
class Scan:
    """Every image of a list of paths. file, pixels: checksums, or None for a damaged image.

    grey: uint8 (n, 32, 32). damaged: {index: reason}.
    """

    file: list[bytes | None] = field(default_factory=list)
    pixels: list[bytes | None] = field(default_factory=list)
    grey: np.ndarray = field(default_factory=lambda: np.empty((0, SIDE, SIDE), np.uint8))
    damaged: dict[int, str] = field(default_factory=dict)


def scan(paths: Sequence[Path], title: str) -> Scan:
    """Read and decode every image once."""
    result = Scan(grey=np.zeros((len(paths), SIDE, SIDE), np.uint8))
    for i, (file, pixels, grey, reason) in enumerate(parallel(_look, paths, title)):
        result.file.append(file)
        result.pixels.append(pixels)
        if grey is None:
            result.damaged[i] = reason
        else:
            result.grey[i] = grey
    return result


def _look(path: Path) -> tuple[bytes | None, bytes | None, np.ndarray | None, str]:
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            colours = rgb(image)
    except Exception as error:  # Pillow's decoders raise many types
        return None, None, None, str(error) or type(error).__name__
    pixels = hashlib.sha256(repr(colours.size).encode() + colours.tobytes()).digest()
    grey = np.asarray(colours.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return hashlib.sha256(data).digest(), pixels, grey, ""


def pairs(found: Scan) -> list[Pair]:
    """All pairs, the identical ones first; of over ``LARGE`` equal images, those with the first of them."""
    same = [
        Pair(i, j, "files" if found.file[i] == found.file[j] else "pixels") for i, j in _equal(found.pixels)
    ]
    hashes = perceptual(found.grey)
    usable = [i for i in range(len(hashes)) if i not in found.damaged]
    near = _near(hashes[usable], found.grey[usable])
    far = (Pair(usable[i], usable[j], "near") for i, j in near)
    return same + [pair for pair in far if found.pixels[pair.i] != found.pixels[pair.j]]


def _equal(values: Sequence[bytes | None]) -> Iterator[tuple[int, int]]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        if value is not None:
            groups[value].append(i)
    for group in groups.values():
        yield from combinations(group, 2) if len(group) <= LARGE else ((group[0], j) for j in group[1:])


def perceptual(grey: np.ndarray) -> np.ndarray:
    """uint64 (n,): the perceptual hashes of grey images uint8 (n, 32, 32)."""
    k, x = np.arange(8)[:, None], np.arange(SIDE)[None]
    basis = np.cos(np.pi * (2 * x + 1) * k / (2 * SIDE)).astype(np.float32)
    low = (basis @ grey.astype(np.float32) @ basis.T).reshape(len(grey), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _near(hashes: np.ndarray, grey: np.ndarray) -> Iterator[tuple[int, int]]:
    """Every pair i < j whose hashes and grey images agree: all against all, a block of rows at a time."""
    rows = max(1, BLOCK // max(1, len(hashes)))
    for start in range(0, len(hashes), rows):
        different = _ones(hashes[start : start + rows, None] ^ hashes[None, start:])
        i, j = np.nonzero(different <= DISTANCE)
        i, j = i[i < j] + start, j[i < j] + start
        for at in range(0, len(i), 1 << 15):
            a, b = i[at : at + (1 << 15)], j[at : at + (1 << 15)]
            alike = (_standard(grey[a]) * _standard(grey[b])).sum(axis=1) >= CORRELATION
            yield from zip(a[alike].tolist(), b[alike].tolist(), strict=True)


def _standard(grey: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, so that their product is the correlation; an even image is a zero row."""
    flat = grey.reshape(len(grey), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


_ONES_16 = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)


def _ones(values: np.ndarray) -> np.ndarray:
    """The number of ones of every uint64."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(values)
    return _ONES_16[values.view(np.uint16).reshape(*values.shape, 4)].sum(axis=-1, dtype=np.uint8)
