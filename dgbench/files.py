"""Files that are whole or absent, and a lock that a dead process cannot keep."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import UsageError

DISK = (errno.EACCES, errno.EFBIG, errno.ENOSPC, errno.EROFS, errno.EDQUOT)
"""Numbers of errors that are the disk's, not of what is read from elsewhere."""


def replace(path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None) -> None:
    """Write a file aside, flush it to the disk, then rename it over ``path``; ``keep``: what the old one is
    then called. At any moment one of the two is there, and whole. ``OSError`` names ``path``."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        told = error if isinstance(error, OSError) else error.__context__  # torch hides what the disk said
        if isinstance(told, OSError) and told.errno in DISK:
            raise OSError(told.errno, told.strerror, str(path)) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def append(path: Path, data: bytes, sync: bool = False) -> None:
    """Add to a file in one write; ``sync`` also waits for the disk. ``OSError`` names ``path``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        write(descriptor, data, path, sync)
    finally:
        os.close(descriptor)


def write(descriptor: int, data: bytes, path: Path, sync: bool = False) -> None:
    """All of ``data`` in one write to the open file at ``path``, which an ``OSError`` names."""
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "no space left, the disk took only a part of a record")
        if sync:
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_text(path: Path, text: str) -> None:
    """``replace`` with a text."""
    replace(path, lambda file: file.write(text.encode()))


def write_output(path: Path, text: str) -> None:
    """``replace_text`` where a user's ``--output`` points; ``UsageError`` if it cannot be written."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}; give --output a file") from error


def cache_folder(kind: str) -> Path:
    """The folder of what can be made anew: below ``$DGBENCH_CACHE`` or ``~/.cache/dgbench``."""
    return Path(os.environ.get("DGBENCH_CACHE") or Path.home() / ".cache" / "dgbench") / kind


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed ``replace`` left in a folder that has one writer."""
    for path in folder.glob(".*.part"):
        path.unlink()


@contextmanager
def lock(path: Path, shared: bool = False) -> Iterator[bool]:
    """Hold the lock at ``path``; yields False when another process has it. Ends with the process.

    shared: only ask; several processes may ask at once, and a folder that cannot be written is no obstacle.
    A file system without locks has them all free.
    """
    with _open(path, "r" if shared else "a") as file:
        free = _flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        for _ in range(0 if free or shared else 10):  # one who asks has it for a moment
            time.sleep(0.005)
            if free := _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                break
        yield free


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file beside ``path``, removed afterwards; ``BlockingIOError`` if held, not to ``wait``."""
    path = path.with_name(path.name + ".lock")
    while True:
        with _open(path, "w") as file:
            if not _flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
                raise BlockingIOError(f"{path} is held")
            if not _is_at(file, path):  # its holder removed the file while we waited for it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


_lock_files: set[IO[str]] = set()


@contextmanager
def _open(path: Path, mode: str) -> Iterator[IO[str]]:
    """A lock file, which a forked child closes: it would hold the lock on after this process has died."""
    with open(path, mode) as file:
        _lock_files.add(file)
        try:
            yield file
        finally:
            _lock_files.discard(file)


def _close_lock_files() -> None:
    while _lock_files:
        _lock_files.pop().close()


os.register_at_fork(after_in_child=_close_lock_files)


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _flock(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at ``path``; a missing file is not locked."""
    try:
        with lock(path, shared=True) as free:
            return not free
    except FileNotFoundError:
        return False
