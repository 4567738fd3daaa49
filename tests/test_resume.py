"""A run that is really killed (SIGKILL) goes on and ends with the same records and weights, bit for bit."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench import files, lease, records
from dgbench.algorithm import Algorithm
from dgbench.machine import Machine
from dgbench.spec import AVERAGING, RunSpec
from dgbench.train import run

SPEC = RunSpec("RotatedDigits", "PCL", test_envs=("15",), steps=25, checkpoint_freq=5, averaging=AVERAGING)
TIMES = ("seconds", "images_per_second", "memory_gb")
FORK = multiprocessing.get_context("fork")


def results(folder: Path) -> list[dict[str, Any]]:
    """The records without the times."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def same_weights(a: Path, b: Path) -> bool:
    left, right = (torch.load(f / "weights.pt", weights_only=True) for f in (a, b))
    return left.keys() == right.keys() and all(
        torch.equal(left[kind][key], right[kind][key]) for kind in left for key in left[kind]
    )


def child(folder: Path, prepare: Callable[[], None], every_min: float) -> None:
    torch.set_num_threads(1)
    prepare()
    run(SPEC, folder, Machine(threads=1, checkpoint_every_min=every_min))


def start(folder: Path, prepare: Callable[[], None] = lambda: None, every_min: float = 10) -> Any:
    """A fork: torch is imported already, so a start costs no time."""
    process = FORK.Process(target=child, args=(folder, prepare, every_min))
    process.start()
    return process


def finish(folder: Path) -> None:
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(owner: Any, name: str, count: int, half: bool = False) -> Callable[[], None]:
    """Kill the process before call number ``count`` of a function; ``half``: in the middle of a write."""

    def prepare() -> None:
        original, calls = getattr(owner, name), iter(range(1, 10**6))

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == count:
                if half:
                    path, record = args
                    with open(path, "a") as file:
                        file.write(json.dumps(record)[:100])
                suicide()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return prepare


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(folder)
    return folder


POINTS = [
    *[(Algorithm, "descend", n, False) for n in (1, 2, 6, 7, 13, 25)],
    *[(records, "append", n, False) for n in (1, 2, 4, 7)],
    *[(records, "append", n, True) for n in (1, 2, 5, 15)],
    *[(torch, "save", n, False) for n in (1, 2, 6)],
    *[(os, "fsync", n, False) for n in (1, 2, 3, 6, 9)],
    *[(os, "replace", n, False) for n in (1, 2, 3, 4)],
    (records, "truncate", 1, False),
    (files, "replace_text", 2, False),
]


@pytest.mark.parametrize(
    ("owner", "name", "count", "half"), POINTS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_killed_at_a_chosen_point(
    undisturbed: Path, tmp_path: Path, owner: Any, name: str, count: int, half: bool
) -> None:
    folder = tmp_path / "run"
    process = start(folder, die_at_call(owner, name, count, half))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "done").exists()
    finish(folder)
    assert results(folder) == results(undisturbed)
    assert same_weights(folder, undisturbed)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "both"), [(cut, False), (flip, False), (cut, True)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    undisturbed: Path, tmp_path: Path, damage: Callable[[Path], None], both: bool
) -> None:
    folder = tmp_path / "run"
    process = start(folder, die_at_call(Algorithm, "descend", 14))
    process.join(120)
    kept = [folder / name for name in ("checkpoint.pt", "checkpoint.before.pt")]
    assert [torch.load(path, weights_only=True)["step"] for path in kept] == [11, 6]
    for path in kept[: 1 + both]:
        damage(path)
    finish(folder)
    log = (folder / "log.txt").read_text()
    assert "checkpoint.pt is damaged" in log and ("checkpoint.before.pt is damaged" in log) == both
    assert (log.count(": start\n") == 2) if both else ("go on at step 6\n" in log)
    assert results(folder) == results(undisturbed)
    assert same_weights(folder, undisturbed)
    assert not any(path.exists() for path in kept)


def test_a_copy_of_a_folder_in_which_a_run_went_on_lacks_no_record(undisturbed: Path, tmp_path: Path) -> None:
    """Its records were copied before an evaluation, its checkpoints after it."""
    early, folder = tmp_path / "early", tmp_path / "run"
    for copy, updates in ((early, 9), (folder, 14)):
        process = start(copy, die_at_call(Algorithm, "descend", updates))
        process.join(120)
    assert len(results(early)) < len(results(folder))
    (folder / "results.jsonl").write_bytes((early / "results.jsonl").read_bytes())
    finish(folder)
    assert "checkpoint.pt was made with more records" in (folder / "log.txt").read_text()
    assert results(folder) == results(undisturbed)
    assert same_weights(folder, undisturbed)


def test_killed_between_evaluations_it_goes_on_between_them(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for count in (9, 6):  # the second time from step 8 on
        process = start(folder, die_at_call(Algorithm, "descend", count), every_min=1e-9)
        process.join(120)
    finish(folder)
    log = (folder / "log.txt").read_text()
    assert "go on at step 8\n" in log and "go on at step 13\n" in log
    assert results(folder) == results(undisturbed)
    assert same_weights(folder, undisturbed)


def test_killed_again_and_again_at_random_moments(undisturbed: Path, tmp_path: Path) -> None:
    folder, r, kills = tmp_path / "run", random.Random(0), 0
    while kills < 12 and not (folder / "done").exists():
        process = start(folder)
        time.sleep(r.uniform(0.05, 0.5))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 0
    finish(folder)
    assert results(folder) == results(undisturbed)
    assert same_weights(folder, undisturbed)


def with_workers(folder: Path) -> None:
    run(replace(SPEC, steps=10**6), folder, Machine(threads=1, data_workers=1))


def test_a_killed_run_is_followed_at_once_though_its_loader_lives_on(tmp_path: Path) -> None:
    """It notices only after seconds that the run is dead; stopped here, it never does."""
    killed = FORK.Process(target=with_workers, args=(tmp_path,))
    killed.start()
    until = time.monotonic() + 60
    while not (tmp_path / "results.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    loader = int(subprocess.check_output(["pgrep", "-P", str(killed.pid)]))
    os.kill(loader, signal.SIGSTOP)
    try:
        with pytest.raises(lease.Busy), lease.hold(tmp_path):
            pass
        killed.kill()
        killed.join()
        with lease.hold(tmp_path):
            os.kill(loader, 0)  # it is there
    finally:
        os.kill(loader, signal.SIGKILL)


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with files.lock(folder / "lock") as free:
        assert free
        process = start(folder)
        process.join(60)
        assert process.exitcode == 1
    assert not (folder / "results.jsonl").exists()
