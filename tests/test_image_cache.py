"""Decoded once, ever: also when two processes start at once, when one is killed, when the data changes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import Resize

from dgbench import decode, image_cache
from dgbench.errors import UsageError
from dgbench.files import held


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Twelve images of several sizes and modes under tmp_path/data; an empty cache."""
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))
    r = np.random.RandomState(0)
    paths = []
    for i in range(12):
        mode, suffix = (("RGB", "jpg"), ("L", "png"), ("RGBA", "png"))[i % 3]
        pixels = r.randint(0, 256, (20 + i, 50 - i, len(mode))).astype(np.uint8).squeeze()
        path = tmp_path / "data" / "day" / f"{i:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def load(paths: list[Path], size: int = 8, cache: str = "disk") -> decode.Decoded:
    return image_cache.load("Test day", paths[0].parents[1], paths, size, cache)


def entries(suffix: str = "") -> list[str]:
    return sorted(p.name for p in image_cache.folder().glob(f"*{suffix}"))


@pytest.mark.parametrize("cache", image_cache.CACHES)
@pytest.mark.parametrize("size", [8, 33])
def test_pixels_are_those_of_torchvisions_resize(files: list[Path], cache: str, size: int) -> None:
    images, sizes, _ = load(files, size, cache)
    theirs = [Resize((size, size))(Image.open(path).convert("RGB")) for path in files]
    assert images.shape == (12, size, size, 3) and images.dtype == np.uint8
    assert (np.asarray(images[:]) == np.stack([np.asarray(image) for image in theirs])).all()
    assert sizes.tolist() == [list(Image.open(path).size) for path in files]


def test_16_bits_are_scaled_and_32_are_refused(files: list[Path]) -> None:
    """Pillow would cut both at 255: white images."""
    greys = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for name in ("a.png", "b.tif"):
        Image.fromarray(greys).save(path := files[0].with_name(name))
        assert (load([path]).images[0] == (greys // 256)[..., None]).all()
    Image.fromarray(greys.astype(np.float32)).save(path)
    with pytest.raises(UsageError, match=r"b\.tif \(its greys have 32 bits, .*\)"):
        load([path])


def test_the_images_are_in_the_order_of_the_paths(files: list[Path]) -> None:
    """Labels are: a data set that lists its classes in another order has the same files."""
    images = load(files).images
    assert (load(files[::-1]).images[:] == images[::-1]).all()


def test_disk_is_a_read_only_memory_map(files: list[Path]) -> None:
    images = load(files).images
    assert isinstance(images, np.memmap) and not images.flags.writeable
    assert len(entries()) == 1  # no temporary folder, no lock


def test_an_image_is_decoded_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(files)
    monkeypatch.setattr(decode, "decode", None)
    for cache in ("disk", "ram"):
        again = load(files, cache=cache)
        assert (again.images == first.images).all() and (again.sizes == first.sizes).all()
        assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_ram_and_none_write_nothing(files: list[Path], tmp_path: Path, cache: str) -> None:
    load(files, cache=cache).images[:]
    assert not (tmp_path / "cache").exists()


def test_none_indexes_like_an_array(files: list[Path]) -> None:
    lazy, array = load(files, cache="none").images, load(files, cache="ram").images
    assert lazy.shape == array.shape and len(lazy) == 12
    rows = np.array([3, 3, 0])
    assert (lazy[rows] == array[rows]).all() and (lazy[-1] == array[-1]).all()
    assert (lazy[2:5] == array[2:5]).all() and lazy[[]].shape == (0, 8, 8, 3)


def test_the_fingerprint_is_the_contents(files: list[Path]) -> None:
    prints = {load(files, size, cache).fingerprint for size in (4, 8) for cache in image_cache.CACHES}
    assert len(prints) == 1
    os.utime(files[0], (1, 1))
    assert {load(files).fingerprint} == prints
    files[0].write_bytes(files[3].read_bytes())
    assert load(files).fingerprint not in prints
    assert load(files[1:]).fingerprint != load(files).fingerprint
    assert load(files[::-1]).fingerprint == load(files).fingerprint, "in whatever order they are listed"
    before, (a, b) = load(files).fingerprint, (path.read_bytes() for path in (files[1], files[4]))
    files[1].write_bytes(b)
    files[4].write_bytes(a)
    assert load(files).fingerprint != before


def test_changed_files_are_decoded_anew(files: list[Path]) -> None:
    before = np.array(load(files).images)
    Image.new("RGB", (9, 9), "red").save(files[0])
    after = load(files).images
    assert (after[0] == [254, 0, 0]).all() and (after[1:] == before[1:]).all()


def test_a_change_that_leaves_the_size_is_seen_by_the_time(files: list[Path]) -> None:
    path = files[0].with_name("12.bmp")
    for i, colour in enumerate(("red", "blue")):
        Image.new("RGB", (4, 4), colour).save(path)
        os.utime(path, (i, i))
        image = load([path]).images[0]
    assert (image == [0, 0, 255]).all()


def test_another_domain_with_the_same_file_names_is_another_entry(files: list[Path]) -> None:
    night = files[0].parents[1] / "night"
    shutil.copytree(files[0].parent, night)  # keeps modification times
    load(files)
    load([night / path.name for path in files])
    assert len(entries()) == 2


@pytest.mark.parametrize("name", ["images.npy", "sizes.npy", "meta.json"])
def test_a_damaged_entry_is_replaced(files: list[Path], name: str) -> None:
    before = np.array(load(files).images)
    damaged = image_cache.folder() / entries()[0] / name
    for data in (damaged.read_bytes()[:-5], b""):
        damaged.write_bytes(data)
        assert (load(files).images == before).all()
    assert len(entries()) == 1


LOAD = """
import sys, time
from pathlib import Path
from dgbench import decode, image_cache
slow, log, *paths = sys.argv[1:]
real = decode.decode
def traced(path, size):
    open(log, "a").write(path.name + "\\n")
    time.sleep(float(slow))
    return real(path, size)
decode.decode = traced
paths = [Path(p) for p in paths]
print(image_cache.load("Test day", paths[0].parents[1], paths, 8).images.sum())
"""


def start(files: list[Path], slow: float, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOAD, str(slow), str(log), *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_decode_once(files: list[Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [start(files, 0.03, log) for _ in range(2)]
    sums = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sums[0] == sums[1] == f"{load(files, cache='ram').images.sum()}\n"
    assert sorted(log.read_text().split()) == [path.name for path in files]
    assert len(entries()) == 1


def test_killed_half_way(files: list[Path], tmp_path: Path) -> None:
    """What a killed process leaves is no entry, and is removed by the next that builds any entry."""
    log = tmp_path / "log"
    process = start(files, 0.2, log)
    while not log.exists() or len(log.read_text().split()) < 3:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(entries(".tmp")) == len(entries(".lock")) == 1
    load(files[:5], size=4)
    assert len(entries()) == 1
    assert load(files).images.shape == (12, 8, 8, 3)


def test_a_folder_that_another_process_is_writing_stays(files: list[Path]) -> None:
    other = image_cache.folder() / "Other-8-0123"
    (image_cache.folder() / "Other-8-0123.tmp").mkdir(parents=True)
    with held(other):
        load(files)
        assert entries(".tmp") == ["Other-8-0123.tmp"]


def test_who_waited_for_a_lock_holds_the_file_that_is_there(files: list[Path]) -> None:
    entry = image_cache.folder() / "Any-8-0123"
    entry.parent.mkdir(parents=True)
    there: list[bool] = []

    def wait() -> None:
        with held(entry):
            there.append(bool(entries(".lock")))

    waiting = threading.Thread(target=wait)
    with held(entry):
        waiting.start()
        time.sleep(0.1)
        assert not there
    waiting.join(10)
    assert there == [True] and not entries(".lock")


def test_disk_too_full(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 12 * 8 * 8 * 3))
    with pytest.raises(UsageError, match=r"images of Test day need .* GiB in .*--cache ram or none"):
        load(files)
    assert entries() == []


def test_a_folder_that_cannot_be_written(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write the image cache .*set DGBENCH_CACHE"):
        load(files)


def test_unknown_cache(files: list[Path]) -> None:
    with pytest.raises(UsageError, match="unknown cache 'dsk'; did you mean disk"):
        load(files, cache="dsk")
