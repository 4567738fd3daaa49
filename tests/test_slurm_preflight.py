"""What is asked of Slurm, as far as it can be judged without one."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dgbench import sweep
from dgbench.errors import UsageError
from dgbench.launchers import slurm_preflight, squeue
from dgbench.launchers.slurm_preflight import Resources
from dgbench.machine import Machine


def resources(*flags: str) -> Resources:
    return slurm_preflight.resources_from(sweep._parser().parse_args(["launch", "--output_dir", "x", *flags]))


def test_flags_become_resources() -> None:
    more = ["--sbatch", "nice=a=b", "exclusive_user", "x y=1"]
    asked = resources("--threads", "2", "--data_workers", "3", *more)
    assert asked.cpus == 5 and asked.sbatch == {"nice": "a=b", "exclusive-user": True, "x y": "1"}
    assert resources("--cpus", "7").cpus == 7 and resources().timeout_min == 240


@pytest.mark.parametrize(("text", "megabytes"), [("8G", 8192), ("500", 500), ("500MB", 500), ("2048k", 2)])
def test_amounts_of_memory(text: str, megabytes: float) -> None:
    assert Resources(mem=text).megabytes() == megabytes


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Resources(mem="8 G"), "--mem 8 G is no amount of memory; write it like 8G or 500M"),
        (Resources(gpus=-1), "--gpus -1 is too small"),
        (Resources(array_parallelism=0), "--array_parallelism 0 is too small"),
        (Resources(comment="a\nb"), "--comment must be one line"),
        (Resources(sbatch={"nice": "1\ntouch x"}), "--sbatch must be one line"),
        (Resources(timeout_min=2), "--signal_delay_s 120 leaves nothing of --timeout_min 2"),
        (Resources(sbatch={"signal": "KILL"}), "--sbatch signal is not free"),
        (Resources(sbatch={"partition": "gpu"}), "--sbatch partition is not free"),
    ],
)
def test_what_no_cluster_takes(asked: Resources, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        asked.check()


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("(null)", 0), ("gpu:4", 4), ("gpu:a100:4(S:0-1),disk:1,gpu:v100:2", 6), ("mygpu:3", 0)],
)
def test_the_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert slurm_preflight._gpus(gres) == gpus


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(squeue.NoAnswer, match="sbatch is not on PATH: this machine has no Slurm; give --l"):
        slurm_preflight.preflight(Resources())


def test_a_task_saves_what_it_did_before_its_time_is_up(tmp_path: Path) -> None:
    slurm = pytest.importorskip("dgbench.launchers.slurm")
    machine = Machine(data_dir=Path("data"), label_split=Path("few.json"))
    assert slurm._for_tasks(machine, Resources(timeout_min=10).usable_min).checkpoint_every_min == 2
    sent = slurm._for_tasks(machine, Resources().usable_min)
    assert sent.checkpoint_every_min == machine.checkpoint_every_min == 10
    assert sent.data_dir == Path("data").absolute() and sent.label_split == Path("few.json").absolute()


@pytest.mark.slow
def test_runs_are_put_together_by_their_cost() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    from dgbench.launchers import slurm

    runs = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=4, steps=1)
    assert [len(task) for task in slurm.split(runs, 10)] == [10, 10, 4]
    assert len(slurm.split(runs, 0)) == 1, "seconds each"
    long = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=1, steps=10**8)
    assert [len(task) for task in slurm.split(long, 0)] == [1] * 6


def test_a_signal_while_a_task_imports_does_not_end_it() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    from dgbench.launchers import slurm

    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('alive', *os.sys.argv[1:])"
    command = [*shlex.split(slurm.DEAF), sys.executable, "-c", script, "a b", "'$(c)\""]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told == "alive a b '$(c)\"\n"
