"""Image files decoded once: a uint8 array per domain and size, in a folder shared by all runs.

The folder is ``$DGBENCH_CACHE`` or ``~/.cache/dgbench``. An entry is named by a hash of the files' relative
paths in their order, sizes and modification times, so changed data is decoded anew. It can be deleted at any
time.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .decode import VERSION, Decoded, ImageFiles
from .errors import UsageError, unknown
from .files import cache_folder, held

CACHES = ("disk", "ram", "none")
_ADVICE = "set DGBENCH_CACHE to another folder, or choose --cache ram or none, or a smaller --image_size"


def folder() -> Path:
    """Where entries lie."""
    return cache_folder("images")


def load(name: str, root: Path, paths: Sequence[Path], size: int, cache: str = "disk") -> Decoded:
    """The images at ``paths``, which lie under ``root``, as RGB of size x size pixels (``decode.decode``).

    name: shown while decoding, and the entry's readable prefix. cache:

    - "disk": decoded once ever; the array is a read-only memory map.
    - "ram": decoded once per process, into memory, unless it is on disk already; nothing is written.
    - "none": decoded anew at each access; here the files are only hashed.

    Raises ``UsageError`` for an image that cannot be decoded, naming it, and for a disk too full.
    """
    if cache not in CACHES:
        raise unknown("cache", cache, CACHES)
    files = ImageFiles(name, root, paths, size)
    if cache == "none":
        return files.encoded()
    entry = _entry(files)
    found = _open(entry, mmap=cache == "disk")
    if found is not None:
        return found
    return files.to_memory() if cache == "ram" else _to_disk(files, entry)


def _entry(files: ImageFiles) -> Path:
    stats = [os.stat(path) for path in files.paths]
    state = [(p, s.st_size, s.st_mtime_ns) for p, s in zip(files.relative(), stats, strict=True)]
    key = hashlib.sha256(json.dumps([VERSION, files.size, state]).encode()).hexdigest()[:16]
    return folder() / f"{re.sub(r'[^A-Za-z0-9]+', '_', files.name)}-{files.size}-{key}"


def _open(entry: Path, mmap: bool) -> Decoded | None:
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r" if mmap else None)
        return Decoded(images.transpose(0, 2, 3, 1), np.load(entry / "sizes.npy"), meta["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError):  # absent, or damaged: decoded again
        return None


def _to_disk(files: ImageFiles, entry: Path) -> Decoded:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with held(entry):  # another process may be decoding the same images: wait, then use its entry
            found = _open(entry, mmap=True)
            if found is None:
                _build(files, entry)
                found = _open(entry, mmap=True)
    except OSError as error:
        raise UsageError(f"cannot write the image cache {entry.parent}: {error}; {_ADVICE}") from error
    assert found is not None
    return found


def _build(files: ImageFiles, entry: Path) -> None:
    """Decode into a folder aside and rename it; a process killed here leaves only that folder."""
    _remove_abandoned(entry.parent)
    _check_space(entry.parent, files)
    aside = entry.with_name(entry.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        n, height, width, channels = files.shape
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, channels, height, width)}
        with open(aside / "images.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            sizes, fingerprint = files.decode_to(
                lambda _, pixels: file.write(pixels.transpose(2, 0, 1).tobytes())
            )
            file.flush()
            os.fsync(file.fileno())
        np.save(aside / "sizes.npy", sizes)
        meta = {"fingerprint": fingerprint, "images": len(sizes), "source": str(files.root)}
        (aside / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)  # a damaged one
        os.replace(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_space(path: Path, files: ImageFiles) -> None:
    needed, free = int(np.prod(files.shape, dtype=np.int64)), shutil.disk_usage(path).free
    if free < needed * 1.05:
        raise UsageError(
            f"the decoded images of {files.name} need {needed / 2**30:.3g} GiB in {path}, "
            f"which has {free / 2**30:.3g} GiB free; {_ADVICE}"
        )


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left; a folder whose lock is held is still being written."""
    for aside in path.glob("*.tmp"):
        entry = aside.with_name(aside.name.removesuffix(".tmp"))
        with contextlib.suppress(OSError), held(entry, wait=False):
            shutil.rmtree(aside, ignore_errors=True)
