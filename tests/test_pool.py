"""Pools of real processes that are interrupted, cancelled, killed and doubled."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sweeps_by_process import (
    call,
    children,
    command,
    is_alive,
    results,
    start,
    starts,
    states,
    wait_for,
    writers,
)

from dgbench import lease, process, status, sweep
from dgbench.errors import UsageError
from dgbench.launchers import launches
from dgbench.launchers.pool import _machines
from dgbench.machine import Machine

LONG = ("--steps", "100000", "--launcher", "pool", "--workers", "2")
SHORT = ("--launcher", "pool", "--workers", "2")
SUICIDE = '''
import os, signal
from dgbench.algorithms.erm import ERM


class Suicide(ERM):
    """As a process that runs out of memory."""

    def loss(self, batch):
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial") / "out"
    call("launch", folder, "--launcher", "serial")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "cancel", "kill -9"])
def test_an_ended_pool_leaves_no_process_and_goes_on(how: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    parent = start("launch", out, *LONG)
    pids = wait_for(lambda: len(found := writers(out)) == 2 and found)
    assert sorted(pids) == sorted(children(parent.pid))
    told = call("status", out, *LONG)
    assert "0 waiting, 4 queued, 2 running, 0 failed, 0 done" in told
    assert told.count("/100000") == 2 and f"process {pids[0]}" in told
    if how == "cancel":
        told = call("cancel", out, *LONG)
        assert "stopped a launch by pool" in told and not any(map(is_alive, [*pids, parent.pid]))
        assert parent.wait(60) in (130, -signal.SIGKILL)  # the latter where it takes seconds to end
    else:
        os.kill(parent.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
        assert parent.wait(60) == (130 if how == "Ctrl-C" else -signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, pids)))
    wait_for(lambda: states(out) == ["waiting"] * 6)
    assert launches.living(out) == []
    assert "nothing was queued or running" in call("cancel", out, *LONG)
    parent = start("launch", out, *LONG)
    wait_for(lambda: len(writers(out)) == 2)
    call("cancel", out, *LONG)
    parent.wait(60)
    assert list((out / launches.FOLDER).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 1, 1.5])
def test_ctrl_c_while_workers_start_prints_no_traceback(seconds: float, tmp_path: Path) -> None:
    parent = start("launch", tmp_path / "out", *LONG)
    wait_for(lambda: len(children(parent.pid)) == 2)
    time.sleep(seconds)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    told, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130 and "Traceback" not in told and "stopped; the same command" in told, told


@pytest.mark.slow
def test_two_pools_share_a_folder_and_run_nothing_twice(serial: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pools = [start("launch", out, "--launcher", "pool", "--workers", "1") for _ in range(2)]
    told = [pool.communicate(timeout=300)[0] for pool in pools]
    assert [pool.returncode for pool in pools] == [0, 0], told
    assert set(starts(out).values()) == {1} and len(starts(out)) == 6
    assert results(out) == results(serial)
    assert {path.name for path in out.iterdir()} == {*starts(out), "sweep.json", launches.FOLDER}


@pytest.mark.slow
def test_a_run_on_a_machine_that_is_gone_is_taken_over(
    serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a pool that first waits for a sign of life; in this process, so that it need not wait a minute."""
    out = tmp_path / "out"
    shutil.copytree(serial, out)
    run = next(iter(results(serial)))
    (out / run / "done").unlink()
    held = lease.Lease(out / run)
    held.stopped.set()
    dead = replace(process.me(), machine="gone")
    monkeypatch.setattr(process, "_machine", lambda: "here")
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
    assert not dead.is_here()
    args = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--n_trials", "1", "--steps", "30"]
    args += ["--checkpoint_freq", "10", "--output_dir", str(out), "--launcher", "serial"]
    assert sweep.main(["launch", *args]) == 0
    assert results(out) == results(serial) and starts(out)[run] == 2


@pytest.mark.slow
def test_a_run_that_kills_its_worker_fails_at_last(tmp_path: Path) -> None:
    plugin, out = tmp_path / "suicide.py", tmp_path / "out"
    plugin.write_text(SUICIDE)
    extra = ["--algorithms", "Suicide", "ERM", "--envs", "0", "--plugin", str(plugin), *SHORT]
    told = call("launch", out, *extra, expect=1)
    assert "1 failed, 1 done" in told and "the worker process died (exit code -9)" in told
    assert sorted(starts(out).values()) == [1, 3]
    plugin.write_text(SUICIDE.split("    def")[0])
    assert "0 failed, 2 done" in call("retry", out, *extra)


@pytest.mark.slow
def test_names_with_any_character_come_through(serial: Path, tmp_path: Path) -> None:
    out = tmp_path / "a b'c\"d;$(touch x)`y`\n%j é"
    told = call("launch", out, "--envs", "0", *SHORT)
    assert "1 done" in told and "leaked" not in told
    (name,) = results(out)
    assert results(out)[name] == results(serial)[name]
    assert "step 29 raw" in call("logs", out, run=name[:20]) and not (tmp_path / "x").exists()


def test_bad_names_of_runs_and_nothing_to_show(tmp_path: Path) -> None:
    spec = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=1)[:2]
    assert "has not begun" in status.log_text(tmp_path, spec, spec[0].run_id())
    for name in ("", "RotatedDigits", "PACS"):
        with pytest.raises(UsageError, match=r"unknown run .*choose from: RotatedDigits-ERM-0-t0-h0"):
            status.log_text(tmp_path, spec, name)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Root may write anywhere: a file stands where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write in .*give another --output_dir"):
        sweep.main(command("launch", tmp_path / "file" / "out", "--launcher", "serial")[3:])


def test_workers_share_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two GPUs, which this one need not be."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = _machines(Machine(runs_per_gpu=3), 2)
    assert [machine.device for machine in found] == ["cuda:0", "cuda:1"] * 3
    on_cpu = Machine(device="cpu", runs_per_gpu=3)
    assert _machines(on_cpu, 2) == [on_cpu] * 2
    with pytest.raises(UsageError, match="--runs_per_gpu 0 must be at least 1"):
        Machine(runs_per_gpu=0)
