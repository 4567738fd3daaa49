"""Archives that are good, broken or hostile."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench.sources.unpack import UnpackError, _Bounded, is_archive, unpack

FILES = {"PACS/photo/dog/a.jpg": b"one", "PACS/photo/dog/b c.jpg": b"two" * 1000, "PACS/empty.txt": b""}


def _zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o4777
            archive.addfile(info, io.BytesIO(data))
    return path


def _special(path: Path, **attributes: object) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("PACS/odd")
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.addfile(info)
    return path


def _content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "zip": _zip,
    "tar": _tar,
    "tar.gz": lambda path, files: _tar(path, files, "w:gz"),
    "tar.bz2": lambda path, files: _tar(path, files, "w:bz2"),
    "tar.xz": lambda path, files: _tar(path, files, "w:xz"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_by_its_content(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "no_suffix", FILES)
    assert is_archive(path)
    unpack(path, tmp_path / "out")
    assert _content(tmp_path / "out") == FILES


def test_a_zip_with_the_separators_of_windows(tmp_path: Path) -> None:
    """As older versions of .NET write it, folders included."""
    names = {name.replace("/", "\\"): content for name, content in FILES.items()}
    folders = {name.rpartition("\\")[0] + "\\": b"" for name in names}
    unpack(_zip(tmp_path / "a.zip", folders | names), tmp_path / "out")
    assert _content(tmp_path / "out") == FILES


def test_permissions_of_an_archive_are_not_taken(tmp_path: Path) -> None:
    unpack(_tar(tmp_path / "a.tar", FILES), tmp_path / "out")
    assert not (tmp_path / "out/PACS/photo/dog/a.jpg").stat().st_mode & (stat.S_ISUID | stat.S_IWOTH)


def test_one_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "digits-ubyte.gz").write_bytes(gzip.compress(bytes(5000)))
    unpack(tmp_path / "digits-ubyte.gz", tmp_path / "out")
    assert _content(tmp_path / "out") == {"digits-ubyte": bytes(5000)}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    "name", ["../evil.txt", "PACS/../../evil.txt", "/tmp/dgbench-evil.txt", "..\\evil.txt", "C:\\evil.txt"]
)
def test_a_path_outside_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "a", {"fine.txt": b"", name: b"evil"})
    with pytest.raises(UnpackError, match="outside the folder: refused"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert not Path("/tmp/dgbench-evil.txt").exists()


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"type": tarfile.SYMTYPE, "linkname": "photo"},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/hostname"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_a_link_or_device_in_a_tar_is_refused(attributes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match=r"(link|special file) 'PACS/odd': refused"):
        unpack(_special(tmp_path / "a.tgz", **attributes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("PACS/odd")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    with pytest.raises(UnpackError, match="link 'PACS/odd': refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_bomb_is_refused_by_its_ratio(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "bomb", {f"{i}.txt": bytes(20_000_000) for i in range(4)})
    assert path.stat().st_size < 100_000
    with pytest.raises(UnpackError, match="decompression bomb"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_declared_size_bounds_what_comes_out(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "a", {"x.txt": bytes(1000), "y.txt": bytes(1001)})
    unpack(path, tmp_path / "fits", limit=2001)
    with pytest.raises(UnpackError, match="decompression bomb"):
        unpack(path, tmp_path / "out", limit=2000)


def test_one_compressed_bomb(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(150_000_000), 1))
    with pytest.raises(UnpackError, match="decompression bomb"):
        unpack(tmp_path / "x.gz", tmp_path / "out", limit=1_000_000)


def test_a_stream_gives_no_more_than_its_bound(tmp_path: Path) -> None:
    stream = _Bounded(io.BytesIO(bytes(5000)), 1000, tmp_path)
    assert stream.peek() == bytes(512) and stream.read(600) == bytes(600)
    with pytest.raises(UnpackError, match="decompression bomb"):
        stream.read(600)


def test_a_zip_that_declares_less_than_it_holds(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"x.txt": bytes(50_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((50_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(UnpackError, match="broken"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_truncated_archive_is_refused(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path / "a", {f"{i}.txt": bytes(range(256)) * 50 for i in range(20)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnpackError):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"  <!DOCTYPE html><title>quota exceeded</title>")
    assert not is_archive(tmp_path / "a.zip")
    with pytest.raises(UnpackError, match="a web page"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UnpackError, match="no archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out2")


def test_a_name_that_is_a_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match="file and a folder"):
        unpack(_tar(tmp_path / "a.tar", {"x": b"", "x/y": b""}), tmp_path / "out")


def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"x" * 300: b"one"})
    with pytest.raises(UnpackError, match="broken"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stream_that_is_not_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.bz2").write_bytes(b"BZh9" + bytes(range(200)))
    with pytest.raises(UnpackError, match="broken"):
        unpack(tmp_path / "a.bz2", tmp_path / "out")
