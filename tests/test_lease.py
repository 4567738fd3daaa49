"""One writer per folder: claims, deaths, take-overs. Processes are real and are really killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dgbench import files, lease, process, records
from dgbench.cancel import cancel
from dgbench.launchers import squeue
from dgbench.spec import RunSpec

FORK = multiprocessing.get_context("fork")
ELSEWHERE = replace(process.me(), host="node7", machine="node7 another boot")


def keep(folder: Path) -> None:
    with lease.hold(folder):
        time.sleep(600)


def start(folder: Path) -> Any:
    holder = FORK.Process(target=keep, args=(folder,))
    holder.start()
    until = time.monotonic() + 30
    while not (told := lease.read(folder)) or told.process.pid != holder.pid:
        assert time.monotonic() < until
        time.sleep(0.01)
    return holder


def write(folder: Path, holder: lease.Holder) -> None:
    (folder / lease.NAME).write_text(json.dumps(asdict(holder)))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    held = start(tmp_path)
    yield held
    held.kill()
    held.join()


def test_a_live_holder_keeps_everyone_out(tmp_path: Path, holder: Any) -> None:
    told = lease.read(tmp_path)
    assert told and (told.process.pid, told.process.is_here(), told.job) == (holder.pid, True, "")
    with pytest.raises(lease.Busy, match=f"being written by .*process {holder.pid}"), lease.hold(tmp_path):
        pass
    assert records.state(tmp_path) == "running"
    for moment in (0, time.time() + 10**6):  # its heart stands still, or clocks have jumped
        os.utime(tmp_path / lease.NAME, (moment, moment))
        assert lease.Watch(stale_seconds=0).is_held(tmp_path) and records.state(tmp_path) == "running"
    os.kill(holder.pid, signal.SIGSTOP)
    assert lease.Watch(stale_seconds=0).is_held(tmp_path)


def test_a_dead_holder_is_followed_at_once(tmp_path: Path, holder: Any) -> None:
    holder.kill()
    holder.join()
    os.utime(tmp_path / lease.NAME, (time.time() + 10**6,) * 2)
    assert records.state(tmp_path) == "waiting" and not lease.Watch().is_held(tmp_path)
    with lease.hold(tmp_path) as held:
        held.check()
        assert lease.read(tmp_path) == lease.Holder(process.me())
    assert not (tmp_path / lease.NAME).exists()


def test_another_process_with_the_same_number_is_another(tmp_path: Path) -> None:
    write(tmp_path, lease.Holder(replace(process.me(), started=1)))
    with lease.hold(tmp_path):
        assert records.state(tmp_path) == "running"


def test_a_zombie_is_dead(tmp_path: Path, holder: Any) -> None:
    told = lease.read(tmp_path)
    assert told and told.process.is_alive()
    os.kill(holder.pid, signal.SIGKILL)  # nobody has waited for it yet
    until = time.monotonic() + 30
    while told.process.is_alive():
        assert time.monotonic() < until
    assert Path(f"/proc/{holder.pid}/stat").exists()


def test_another_machines_lease_is_believed_until_it_has_been_seen_still(tmp_path: Path) -> None:
    """Only the observer's own clock counts: whatever the file's time says, far past or far future."""
    for moment in (0.0, time.time() + 10**6):
        now = 1000.0
        watch = lease.Watch(stale_seconds=60, clock=lambda: now)  # noqa: B023
        write(tmp_path, lease.Holder(ELSEWHERE))
        os.utime(tmp_path / lease.NAME, (moment, moment))
        assert watch.is_held(tmp_path)
        now += 59
        assert watch.is_held(tmp_path)
        os.utime(tmp_path / lease.NAME, (moment + 5, moment + 5))
        now += 59
        assert watch.is_held(tmp_path), "it moved"
        now += 59
        assert watch.is_held(tmp_path)
        now += 2
        assert not watch.is_held(tmp_path) and not (tmp_path / lease.NAME).exists()


def test_a_lease_without_words_is_believed_as_long(tmp_path: Path) -> None:
    """As a full disk leaves it, or a kill in the middle of its making."""
    (tmp_path / lease.NAME).touch()
    watch = lease.Watch(stale_seconds=0.05)
    assert watch.is_held(tmp_path)
    with pytest.raises(lease.Busy, match="another process"), lease.hold(tmp_path):
        pass
    time.sleep(0.06)
    assert not watch.is_held(tmp_path)


@pytest.mark.parametrize("queued", ["yes", "no", "nobody knows"])
def test_a_job_in_the_queue_keeps_its_lease(
    tmp_path: Path, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "squeue"
    tool.parent.mkdir()
    says = {"yes": "echo RUNNING", "no": "echo 'Invalid job id specified' >&2; exit 1"}
    tool.write_text(f"#!/bin/sh\n{says.get(queued, 'echo Unable to contact the controller >&2; exit 1')}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    write(tmp_path, lease.Holder(ELSEWHERE, job="12_3"))
    watch = lease.Watch(stale_seconds=0)
    assert watch.is_held(tmp_path)
    assert watch.is_held(tmp_path) == (queued != "no")


def test_a_requeued_job_follows_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert (squeue.own_job(), squeue.own_restart()) == ("12_3", 1)
    write(tmp_path, lease.Holder(ELSEWHERE, job="12_3"))
    watch = lease.Watch(stale_seconds=0)
    assert [watch.is_held(tmp_path), watch.is_held(tmp_path)] == [True, False]
    with lease.hold(tmp_path):
        told = lease.read(tmp_path)
        assert told and (told.job, told.restart) == ("12_3", 1)


@pytest.mark.parametrize("listed", [True, False])
def test_cancel_tells_of_what_goes_on_elsewhere_alone(
    listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that was just cancelled on another node leaves its lease there."""
    spec = RunSpec("RotatedDigits", "ERM", test_envs=("0",))
    (tmp_path / spec.run_id()).mkdir()
    write(tmp_path / spec.run_id(), lease.Holder(ELSEWHERE, job="12_3"))
    monkeypatch.setattr(squeue, "is_listed", lambda job: listed)
    (told,) = cancel(tmp_path, [spec])
    assert ("not stopped" in told) == listed


def test_who_was_taken_over_notices_and_leaves_the_successor_alone(tmp_path: Path) -> None:
    with lease.hold(tmp_path) as held:
        held.check()
        (tmp_path / lease.NAME).unlink()
        write(tmp_path, lease.Holder(ELSEWHERE))
        before = (tmp_path / lease.NAME).stat()
        os.utime(held.file)  # a beat
        with pytest.raises(lease.Busy, match="taken over by node7"):
            held.check()
    after = (tmp_path / lease.NAME).stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_lease_that_the_disk_takes_in_part_is_none(tmp_path: Path, disk_takes: Any) -> None:
    disk_takes(20)
    with pytest.raises(OSError, match="no space left"):
        lease.Lease(tmp_path)
    assert not (tmp_path / lease.NAME).exists()


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    with lease.hold(tmp_path) as held:
        os.utime(held.file, (0, 0))
        until = time.monotonic() + 30
        while (tmp_path / lease.NAME).stat().st_mtime == 0:
            assert time.monotonic() < until
        told = lease.read(tmp_path)
        assert told and told.process.pid == os.getpid(), "a beat changes no word"


def race(folder: Path, wins: Any) -> None:
    for _ in range(200):
        try:
            with lease.hold(folder):
                (folder / "inside").touch(exist_ok=False)
                wins.value += 1
                (folder / "inside").unlink()
        except lease.Busy:
            pass


def test_never_two_at_once(tmp_path: Path) -> None:
    """With a lock on the way; a file made exclusively inside would raise."""
    wins = FORK.Value("i", 0)
    racers = [FORK.Process(target=race, args=(tmp_path, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 4 and wins.value > 0


def test_never_two_at_once_where_files_have_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_flock", lambda file, how: True)
    test_never_two_at_once(tmp_path)


def test_stop_ends_a_process_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILL_SECONDS", 0.3)
    deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=-1)
    assert deaf.stdout and deaf.stdout.readline() == b"ready\n"
    told = replace(process.me(), pid=deaf.pid, started=process._start(deaf.pid))
    assert told.is_alive()
    told.stop()
    assert not told.is_alive() and deaf.wait() == -signal.SIGKILL
