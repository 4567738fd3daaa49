"""Files that are whole or absent, and a lock that a dead process cannot keep."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file aside, flush it to the disk, then rename it over ``path``."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
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
    """
    with open(path, "r" if shared else "a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
