"""What a record says of the code and the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from dgbench import __version__, machine

PACKAGE = Path(machine.__file__).parent


def test_the_code_is_told_by_version_commit_and_changes(tmp_path: Path) -> None:
    """A copy of the package: without a repository, in one, and changed."""
    shutil.copytree(PACKAGE, tmp_path / "dgbench", ignore=shutil.ignore_patterns("__pycache__"))

    def told() -> str:
        command = [sys.executable, "-B", "-c", "from dgbench.machine import code_version as v; print(v())"]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert told() == __version__
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "-a", "some-tag", "-m", "of no consequence")
    commit = git("rev-parse", "--short", "HEAD")
    os.utime(tmp_path / "dgbench" / "errors.py", (0, 0))
    index = (tmp_path / ".git" / "index").read_bytes()
    assert told() == f"{__version__}+{commit}"
    assert (tmp_path / ".git" / "index").read_bytes() == index, "it is the user's, who may be committing"
    with open(tmp_path / "dgbench" / "errors.py", "a") as file:
        file.write("# changed\n")
    assert told() == f"{__version__}+{commit}+dirty"
