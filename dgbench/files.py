"""Files that are whole or absent, and a lock that a dead process cannot keep."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def replace(path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None) -> None:
    """Write a file aside, flush it to the disk, then rename it over ``path``; ``keep``: what the old one is
    then called. At any moment one of the two is there, and whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """``replace`` with a text."""
    replace(path, lambda file: file.write(text.encode()))


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
    with open(path, "r" if shared else "a") as file:
        yield _flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


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
    if not path.exists():
        return False
    with lock(path, shared=True) as free:
        return not free
