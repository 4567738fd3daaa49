"""Sweeps started as users start them, by their own processes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgbench import lease, process, status
from dgbench.plan import read_plan

TIMES = ("seconds", "images_per_second", "memory_gb")


def command(what: str, out: Path, *extra: str, run: str = "") -> list[str]:
    """ERM on the six domains of RotatedDigits, a few steps each. run: whose logs are wanted."""
    grid = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--n_trials", "1", "--steps", "30"]
    often = ["--checkpoint_freq", "10", "--skip_model_save"]
    return [
        sys.executable,
        "-m",
        "dgbench.sweep",
        what,
        *([run] if run else []),
        *grid,
        *often,
        "--output_dir",
        str(out),
        *extra,
    ]


def start(*args: Any, run: str = "", **options: Any) -> "subprocess.Popen[str]":
    own = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    own["preexec_fn"] = _heed_ctrl_c
    return subprocess.Popen(command(*args, run=run), **{**own, **options})


def _heed_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would a process started by that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def call(*args: Any, expect: int = 0, **options: Any) -> str:
    """What the command prints."""
    process = start(*args, **options)
    told, _ = process.communicate(timeout=500)
    assert process.returncode == expect, told
    return told


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)
    return found


def states(folder: Path) -> list[str]:
    return list(status.states(folder, read_plan(folder)).values())


def writers(folder: Path) -> list[int]:
    """The numbers of the processes that write runs."""
    holders = [lease.read(path.parent) for path in folder.glob(f"*/{lease.NAME}")]
    return [holder.process.pid for holder in holders if holder and holder.process.is_alive()]


def is_alive(pid: int) -> bool:
    return process._start(pid) != 0


def children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent), "-f", "spawn_main"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def results(folder: Path, without: Sequence[str] = TIMES) -> dict[str, list[Any]]:
    """{run: records without the times}."""
    return {
        path.parent.name: [
            {k: v for k, v in json.loads(line).items() if k not in without}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.glob("*/results.jsonl"))
    }


def starts(folder: Path) -> dict[str, int]:
    """{run: how often it was begun or taken up again}."""
    logs = folder.glob("*/log.txt")
    return {path.parent.name: path.read_text().count(" on cpu: ") for path in logs}
