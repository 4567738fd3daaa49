"""Archives to folders, without trusting them.

Only plain files and folders are made, with the user's own permissions. That is stricter than tarfile's
"data" filter, which makes absolute names relative and keeps links that stay inside.
"""

import bz2
import errno
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from .. import progress
from ..files import DISK

RATIO = 100  # images hardly compress, texts some 20-fold
FLOOR = 1 << 26  # bytes that any archive may unpack to
MAX_FILES = 3_000_000  # DomainNet has 600,000
BLOCK = 1 << 18
_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile: a password is needed, or (NotImplementedError) an unknown method
    ValueError,  # a name that is no text or no path
)


class UnpackError(Exception):
    """Why an archive was refused, in one line."""


class _Member(NamedTuple):
    """name: as it stands in the archive. size: declared bytes. kind: "file", "folder" or what it is else."""

    name: str
    size: int
    kind: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a zip or tar file, possibly compressed, or one compressed file; by its content."""
    with open(path, "rb") as file:
        head = file.read(512)
    return head.startswith((b"PK\3\4", b"PK\5\6", *_COMPRESSED)) or head[257:262] == b"ustar"


def unpack(path: Path, into: Path, limit: int | None = None) -> None:
    """Unpack a zip, a tar (plain, gzip, bzip2, xz) or one compressed file into the new folder ``into``.

    limit: the most bytes that may come out; by default ``RATIO`` times the archive's size. ``UnpackError``
    for a broken archive, a member outside the folder, a link or device, an encrypted member, more bytes than
    ``limit`` or than the disk has, more than ``MAX_FILES`` members; what was unpacked by then is deleted.
    """
    limit = limit or max(FLOOR, RATIO * path.stat().st_size)
    into.mkdir(parents=True)
    try:
        _unpack(path, into, limit)
    except BaseException as error:
        shutil.rmtree(into, ignore_errors=True)
        if isinstance(error, _BROKEN) or (isinstance(error, OSError) and error.errno not in DISK):
            raise UnpackError(f"{path.name} is broken: {error}") from error
        raise


def _unpack(path: Path, into: Path, limit: int) -> None:
    total = 0
    with progress.bar(f"unpacking {path.name}") as bar, _members(path, limit) as members:
        for i, member in enumerate(members):
            total += member.size
            if total > limit or i >= MAX_FILES:
                raise _too_large(path)
            if member.size > shutil.disk_usage(into).free:
                raise OSError(errno.ENOSPC, f"too full to unpack {path.name}", str(into))
            _write(member, _inside(member, into, path.name), path.name)
            bar.update(member.size)


def _too_large(path: Path) -> UnpackError:
    return UnpackError(
        f"{path.name} unpacks to far more than its size allows: refused as a decompression bomb"
    )


def _inside(member: _Member, into: Path, archive: str) -> Path:
    """The path that a member is written to; ``UnpackError`` if its name leaves the folder."""
    name = member.name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
        raise UnpackError(f"{archive} has the member {member.name!r}, which lies outside the folder: refused")
    if member.kind not in ("file", "folder"):
        raise UnpackError(f"{archive} has the {member.kind} {member.name!r}: refused")
    return into.joinpath(*parts)


def _write(member: _Member, target: Path, archive: str) -> None:
    try:
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            return
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True)
        with member.open() as source, open(target, "wb") as file:
            written = 0
            while block := source.read(BLOCK):
                written += len(block)
                if written > member.size:
                    raise UnpackError(f"{archive}: {member.name!r} is larger than it declares: refused")
                file.write(block)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise UnpackError(f"{archive}: {member.name!r} is a file and a folder") from error
    if written != member.size:
        raise UnpackError(f"{archive}: {member.name!r} has {written} bytes instead of {member.size}")


@contextmanager
def _members(path: Path, limit: int) -> Iterator[Iterator[_Member]]:
    """The members of an archive of any kind, in its order."""
    with open(path, "rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(raw) as archive:
                if sum(info.file_size for info in archive.infolist()) > limit:
                    raise _too_large(path)
                yield _zip_members(archive)
            return
        opener = next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), None)
        stream = _Bounded(opener(raw) if opener else raw, limit + (limit >> 2) + FLOOR, path)  # and headers
        start = stream.peek()
        if start[257:262] == b"ustar":
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                yield _tar_members(tar)
        elif opener:
            yield iter([_single(path, stream, opener)])
        else:
            what = (
                "a web page" if start.lstrip().lower().startswith((b"<!doctype", b"<html")) else "no archive"
            )
            raise UnpackError(f"{path.name} is {what}, neither a zip nor a tar file")


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
        kind = "folder" if info.filename.endswith(("/", "\\")) else "file"
        yield _Member(
            info.filename,
            info.file_size,
            kind if plain else "link" if stat.S_ISLNK(mode) else "special file",
            partial(archive.open, info),
        )


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        kind = "folder" if info.isdir() else "file" if info.isreg() else "link"
        kind = "special file" if info.isdev() else kind
        # a plain file always has something to open
        yield _Member(info.name, info.size, kind, partial(archive.extractfile, info))  # type: ignore[arg-type]
        archive.members = []  # type: ignore[attr-defined]  # a stream needs no list of what has passed


def _single(path: Path, stream: "_Bounded", opener: Callable[..., Any]) -> _Member:
    """One compressed file (MNIST): its size is known only when it has been read once."""
    with opener(path) as file:
        size = 0
        whole = _Bounded(file, stream.left + len(stream.peek()), path)
        while block := whole.read(BLOCK):
            size += len(block)

    @contextmanager
    def again() -> Iterator[IO[bytes]]:
        yield stream  # type: ignore[misc]

    return _Member(path.stem, size, "file", again)


class _Bounded:
    """A stream that refuses to give more than ``limit`` bytes."""

    def __init__(self, stream: Any, limit: int, path: Path) -> None:
        self.stream, self.left, self.path = stream, limit, path
        self._ahead: bytes = b""

    def peek(self) -> bytes:
        """The next 512 bytes, or what there is of them."""
        if not self._ahead:
            self._ahead = self.stream.read(512)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        ahead, self._ahead = self._ahead, b""
        data = ahead[:size] if 0 <= size < len(ahead) else ahead
        self._ahead = ahead[len(data) :]
        if len(data) < size:
            data += self.stream.read(size - len(data))
        self.left -= len(data)
        if self.left < 0:
            raise _too_large(self.path)
        return data
