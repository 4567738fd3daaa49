"""Sweeps on a real Slurm of one node: equal to serial ones, whatever happens to their jobs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import Cluster
from sweeps_by_process import call, results, start, starts, states, wait_for, writers

from dgbench.launchers import launches

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not()),
]
SLURM = ("--launcher", "slurm", "--runs_per_task", "1")
GATED = '''
import time
from pathlib import Path

from dgbench.algorithms.erm import ERM


class Gated(ERM):
    """Waits at its 16th update until there is a file "open" beside this one."""

    calls = 0

    def loss(self, batch):
        self.calls += 1
        while self.calls == 16 and not Path(__file__).with_name("open").exists():
            time.sleep(0.05)
        return super().loss(batch)
'''
FAULTY = """
from dgbench.algorithms.erm import ERM


class Faulty(ERM):
    def loss(self, batch):
        raise FloatingPointError("the loss is nan")
"""


def make_cluster(folder: Path) -> Iterator[Cluster]:
    (folder / "slurm").mkdir()
    cluster = Cluster(folder / "slurm")
    cluster.start_all()
    try:
        yield cluster
    finally:
        cluster.stop_all()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from make_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """For tests that stop its daemons."""
    yield from make_cluster(tmp_path)


class Gate:
    """A sweep of Gated runs on some domains, which wait in the middle until ``open``."""

    def __init__(self, folder: Path, cluster: Cluster, *domains: str) -> None:
        self.out, self.cluster, plugin = folder / "out", cluster, folder / "gated.py"
        plugin.write_text(GATED)
        self.flags = ["--algorithms", "Gated", "--plugin", str(plugin), "--envs", *domains, *SLURM]

    def open(self) -> None:
        (self.out.parent / "open").touch()

    def call(self, what: str, *extra: str, expect: int = 0) -> str:
        return call(what, self.out, *self.flags, *extra, expect=expect, env=self.cluster.env)

    def start(self, what: str, *extra: str) -> "subprocess.Popen[str]":
        return start(what, self.out, *self.flags, *extra, env=self.cluster.env)

    def wait_at_gate(self, count: int) -> list[int]:
        """The processes of so many runs, when all have come to the gate or past it."""
        logs = wait_for(lambda: len(found := list(self.out.glob("*/results.jsonl"))) >= count and found)
        wait_for(lambda: all(path.read_text().count("\n") >= 2 for path in logs))
        return wait_for(lambda: len(found := writers(self.out)) == count and found)

    def tasks(self) -> dict[str, str]:
        """{run: its task in the queue}."""
        arrays = {array.name: array for launch in launches.read_all(self.out) for array in launch.arrays}
        rows = [
            line.split() for line in self.cluster.call("squeue", "-h", "-r", "-o", "%j %F %K").splitlines()
        ]
        return {
            arrays[name].tasks[int(index) if index.isdigit() else 0][0]: f"{job}_{index}".removesuffix("_N/A")
            for name, job, index in rows
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The records of Gated runs that were left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    gate = Gate(folder, Cluster(folder), "0", "15", "30")
    gate.open()
    call("launch", gate.out, *gate.flags, "--launcher", "serial")
    return results(gate.out)


def are_whole(found: dict[str, list[Any]], undisturbed: dict[str, list[Any]], runs: int) -> bool:
    """Whether there are the undisturbed records of so many runs, each once."""
    return len(found) == runs and all(lines == undisturbed[run] for run, lines in found.items())


def make_sweep(out: Path, cluster: Cluster, launcher: str, flags: str = "") -> str:
    """The table that ``make sweep`` prints."""
    what = ["ALGO=ERM", "TRIALS=2", "STEPS=30", f"OUT={out}", f"LAUNCHER={launcher}", f"PY={sys.executable}"]
    args = f"ARGS=--checkpoint_freq 10 --skip_model_save {flags}"
    command = ["make", "-s", "-o", ".venv/.installed", "sweep", *what, args]
    where: dict[str, Any] = {"cwd": Path(__file__).parents[1], "env": cluster.env}
    told = subprocess.run(command, check=True, capture_output=True, text=True, **where).stdout
    return told[told.index(f"; {out}\n") + len(f"; {out}\n") :]


def test_an_array_of_twelve_runs_gives_the_table_and_the_records_of_serial_ones(
    cluster: Cluster, tmp_path: Path
) -> None:
    tables = {
        launcher: make_sweep(tmp_path / launcher, cluster, launcher, flags)
        for launcher, flags in (("serial", ""), ("pool", "--workers 2"), ("slurm", "--runs_per_task 1"))
    }
    assert "RotatedDigits" in tables["serial"] and "Avg" in tables["serial"]
    assert tables["slurm"] == tables["pool"] == tables["serial"]
    of_serial = results(tmp_path / "serial")
    assert len(of_serial) == 12 and all(len(lines) == 4 for lines in of_serial.values())
    assert results(tmp_path / "slurm") == results(tmp_path / "pool") == of_serial
    (launch,) = launches.read_all(tmp_path / "slurm")
    assert [len(array.tasks) for array in launch.arrays] == [10, 2], "split at this cluster's MaxArraySize"
    again = call("launch", tmp_path / "slurm", "--n_trials", "2", *SLURM, env=cluster.env)
    assert "0 runs in" in again
    assert len(launches.read_all(tmp_path / "slurm")) == 1, "nothing is left: nothing was submitted"


def test_a_run_that_raises_fails_alone_and_is_retried_when_asked(cluster: Cluster, tmp_path: Path) -> None:
    plugin, out = tmp_path / "faulty.py", tmp_path / "out"
    plugin.write_text(FAULTY)
    extra = ["--algorithms", "Faulty", "ERM", "--envs", "0", "15", "--plugin", str(plugin), "--launcher"]
    extra += ["slurm", "--runs_per_task", "2"]
    told = call("launch", out, *extra, expect=1, env=cluster.env)
    assert "2 failed, 2 done" in told and "FloatingPointError: the loss is nan" in told
    assert "0 runs in" in call("launch", out, *extra, expect=1, env=cluster.env)
    failed = next(name for name in starts(out) if "Faulty" in name)
    told = call("logs", out, run=failed, env=cluster.env)
    assert told.count("==>") == 4 and "Traceback" in told, "log, error, and both outputs of its task"
    plugin.write_text(FAULTY.split("    def")[0] + '    "Plain."\n')
    assert "0 failed, 4 done" in call("retry", out, *extra, env=cluster.env)
    assert sorted(starts(out).values()) == [1, 1, 2, 2]


def test_a_failed_run_is_retried_while_its_task_goes_on_with_another(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate, plugin = Gate(tmp_path, cluster, "0"), tmp_path / "faulty.py"
    plugin.write_text(FAULTY)
    extra = ["--algorithms", "Faulty", "Gated", "--plugin", str(plugin), "--runs_per_task", "2"]
    first = gate.start("launch", *extra)
    gate.wait_at_gate(1)
    assert states(gate.out) == ["failed", "running"]
    plugin.write_text(FAULTY.split("    def")[0] + '    "Plain."\n')
    assert "1 runs submitted" in gate.call("retry", *extra, "--no_wait")
    wait_for(lambda: states(gate.out) == ["done", "running"])
    gate.open()
    assert first.communicate(timeout=300)[0] and first.returncode == 0
    assert states(gate.out) == ["done"] * 2


def test_scancel_and_kill_9_leave_the_other_runs_and_a_relaunch_takes_these_two(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, cluster, "0", "15", "30")
    first = gate.start("launch")
    pids = gate.wait_at_gate(3)
    assert "0 runs submitted" in gate.call("launch", "--no_wait"), "all are in the queue already"
    told = gate.call("status")
    assert "0 waiting, 0 queued, 3 running" in told and told.count("11/30") == 3 and "job" in told
    (run, task), *_ = gate.tasks().items()
    cluster.call("scancel", task)
    wait_for(lambda: run not in gate.tasks())
    killed = next(pid for pid in pids if pid in writers(gate.out))
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(gate.tasks()) == 1)
    assert "2 waiting, 0 queued, 1 running" in gate.call("status")
    assert "2 runs submitted" in gate.call("launch", "--no_wait")
    gate.wait_at_gate(3)
    gate.open()
    assert "0 runs in" in gate.call("launch"), "waits for what is in the queue"
    assert first.communicate(timeout=300)[0] and first.returncode == 0
    assert sorted(starts(gate.out).values()) == [1, 2, 2]
    assert are_whole(results(gate.out), undisturbed, 3)


def test_cancel_ends_the_launch_and_its_jobs(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, cluster, "0", "15", "30")
    launch = gate.start("launch", "--max_submit", "2")
    gate.wait_at_gate(2)
    assert len(gate.tasks()) == 2
    assert "0 waiting, 1 queued, 2 running" in gate.call("status")
    told = gate.call("cancel")
    assert writers(gate.out) == [] and gate.tasks() == {}
    assert "stopped a launch by slurm" in told and "cancelled job" in told
    assert launch.wait(60) in (130, -signal.SIGKILL)  # the latter where it takes seconds to end
    assert states(gate.out) == ["waiting"] * 3
    assert "nothing was queued or running" in gate.call("cancel")
    gate.open()
    assert "3 done" in gate.call("launch", "--max_submit", "2")
    (_, again) = launches.read_all(gate.out)
    assert [len(array.tasks) for array in again.arrays] == [2, 1]
    assert are_whole(results(gate.out), undisturbed, 3)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--partition gpu", "unknown partition 'gpu'; choose from: main, low"),
        (
            "--cpus 99",
            r"no node has --cpus 99 --mem 0 --gpus 0 together; choose at most: 4 CPUs, 4000M, 2 GPUs",
        ),
        ("--gpus 3 --mem 1G", "no node has --cpus 1 --mem 1G --gpus 3 together"),
        ("--mem much", "--mem much is no amount of memory; write it like 8G or 500M"),
        ("--timeout_min 0", "--timeout_min 0 is too small"),
        ("--sbatch array=1-3", "--sbatch array is not free"),
    ],
)
def test_what_the_cluster_cannot_give(flags: str, told: str, cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = call("launch", out, *SLURM, *flags.split(), expect=2, env=cluster.env)
    assert told in said and said.count("\n") == 1 and not out.exists()


def test_an_option_that_sbatch_refuses(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = call("launch", out, *SLURM, "--sbatch", "begin=sometime", expect=2, env=cluster.env)
    assert "Slurm did not take the runs: " in said and "sometime" in said
    assert [path.name for path in out.iterdir() if any(path.glob("*"))] == [], "no launch stays"
    assert launches.read_all(out) == []


def test_a_dry_run_prints_the_script(cluster: Cluster, tmp_path: Path) -> None:
    flags = ["--gpus", "1", "--mem", "500M", "--account", "a", "--qos", "q", "--constraint", "c"]
    flags += ["--sbatch", "nice=7", "exclusive"]
    told = call("launch", tmp_path / "out", *SLURM, *flags, "--dry_run", env=cluster.env)
    script = [line.removeprefix("#SBATCH --") for line in told.splitlines() if line.startswith("#SBATCH")]
    wanted = {"gpus-per-node=1", "mem=500M", "account=a", "qos=q", "constraint=c", "nice=7", "exclusive"}
    assert wanted <= set(script) and {"array=0-5%6", "signal=USR2@120", "time=240"} <= set(script)
    assert "6 runs in 6 tasks of 1 arrays; accounting is off" in told
    assert not (tmp_path / "out").exists()


def test_names_with_any_character_come_through(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, cluster, "0")
    gate.open()
    gate.out = tmp_path / "a b'c\"d;$(touch x)`y`\n%j é"
    comment = 'it\'s "a; $(touch y)" comment'
    job = gate.start("launch", "--comment", comment, "--sbatch", "begin=now+1")
    seen = wait_for(lambda: cluster.call("squeue", "-h", "-o", "%k").strip())
    assert "1 done" in job.communicate(timeout=300)[0] and seen == comment
    assert "step 29 raw" in call("logs", gate.out, run="RotatedDigits", env=cluster.env)
    assert not list(tmp_path.glob("[xy]"))
    assert are_whole(results(gate.out), undisturbed, 1)


def test_a_controller_that_is_down(
    own_cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, own_cluster, "0", "15")
    own_cluster.signal("slurmctld", signal.SIGKILL)
    told = gate.call("launch", expect=2)
    assert "Slurm does not answer" in told and told.count("\n") == 1 and not gate.out.exists()
    own_cluster.start("slurmctld")
    wait_for(own_cluster.is_ready)
    first = gate.start("launch")
    gate.wait_at_gate(2)
    own_cluster.signal("slurmctld", signal.SIGSTOP)
    try:
        told = gate.call("launch", expect=2)
        assert "Slurm does not answer" in told and told.count("\n") == 1, "what is queued is not guessed"
        told = gate.call("status")
        assert "2 running" in told and "Slurm does not answer" in told
        gate.open()
        wait_for(lambda: states(gate.out) == ["done"] * 2)
    finally:
        own_cluster.signal("slurmctld", signal.SIGCONT)
    assert "2 done" in first.communicate(timeout=300)[0] and first.returncode == 0
    assert "0 runs in" in gate.call("launch") and len(launches.read_all(gate.out)) == 1
    assert are_whole(results(gate.out), undisturbed, 2)


@pytest.mark.slow
def test_a_job_that_was_taken_although_sbatch_failed_is_found_by_its_name(
    own_cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    """The controller stops answering when sbatch is called, and goes on later."""
    gate, bin_ = Gate(tmp_path, own_cluster, "0", "15"), tmp_path / "bin"
    gate.open()
    bin_.mkdir()
    real = own_cluster.call("which", "sbatch").strip()
    (bin_ / "sbatch").write_text(f'#!/bin/sh\nkill -STOP {own_cluster.pid("slurmctld")}\nexec {real} "$@"\n')
    (bin_ / "sbatch").chmod(0o755)
    env = {**own_cluster.env, "PATH": f"{bin_}:{os.environ['PATH']}"}
    told = call("launch", gate.out, *gate.flags, expect=2, env=env)
    assert "Slurm" in told.splitlines()[-1]
    (launch,) = launches.read_all(gate.out)
    assert [array.job for array in launch.arrays] == [""]
    own_cluster.signal("slurmctld", signal.SIGCONT)
    ghost = wait_for(lambda: gate.cluster.call("squeue", "-h", "-o", "%j").split())
    assert set(ghost) == {launch.arrays[0].name}
    assert "2 runs in" in gate.call("launch")
    assert states(gate.out) == ["done"] * 2 and set(starts(gate.out).values()) == {1}
    assert [array.job != "" for launch in launches.read_all(gate.out) for array in launch.arrays] == [True]
    assert are_whole(results(gate.out), undisturbed, 2)


@pytest.mark.slow
def test_a_run_that_is_out_of_time_goes_on_in_the_next_slot(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, cluster, "0")
    launch = gate.start("launch", "--timeout_min", "3", "--signal_delay_s", "15")
    gate.wait_at_gate(1)
    wait_for(lambda: list(starts(gate.out).values()) == [2], 400)
    gate.open()
    assert "1 done" in launch.communicate(timeout=300)[0] and launch.returncode == 0
    log = next(gate.out.glob("*/log.txt")).read_text()
    assert log.count("go on at step 11") == 1
    (launched,) = launches.read_all(gate.out)
    told = (launched.folder / launched.arrays[0].log(0, "err")).read_text()
    assert "Requeued job" in told or "this job is timed-out" in told
    assert are_whole(results(gate.out), undisturbed, 1)


@pytest.mark.slow
def test_a_run_that_is_preempted_goes_on_afterwards(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    gate = Gate(tmp_path, cluster, "0")
    launch = gate.start("launch", "--partition", "low", "--timeout_min", "30")
    gate.wait_at_gate(1)
    job = cluster.call(
        "sbatch", "--parsable", "-p", "main", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 99"
    )
    wait_for(lambda: "RUNNING" in cluster.call("squeue", "-h", "-o", "%T", "-j", job.strip()))
    wait_for(lambda: states(gate.out) == ["waiting"])
    assert "1 queued" in gate.call("status")
    cluster.call("scancel", job.strip())
    gate.open()
    assert "1 done" in launch.communicate(timeout=300)[0] and launch.returncode == 0
    assert "go on at step 11" in next(gate.out.glob("*/log.txt")).read_text()
    assert are_whole(results(gate.out), undisturbed, 1)


@pytest.mark.slow
def test_a_node_that_fails_while_its_job_lives_on(
    own_cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    """slurmd is killed: Slurm queues the job again, its process still writes; a relaunch submits nothing."""
    gate = Gate(tmp_path, own_cluster, "0", "15")
    launch = gate.start("launch")
    pids = gate.wait_at_gate(2)
    own_cluster.signal("slurmd", signal.SIGKILL)
    wait_for(lambda: set(own_cluster.call("squeue", "-h", "-o", "%T").split()) == {"PENDING"}, 120)
    assert sorted(writers(gate.out)) == sorted(pids)
    assert "0 runs submitted" in gate.call("launch", "--no_wait")
    own_cluster.start("slurmd")
    gate.open()
    launch.communicate(timeout=300)
    gate.call("launch")
    assert states(gate.out) == ["done"] * 2
    assert are_whole(results(gate.out), undisturbed, 2)


def test_an_array_that_does_not_wait_for_its_launch(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, list[Any]]
) -> None:
    """kill -9 of the launching process: its jobs go on, and the next launch only waits for them."""
    gate = Gate(tmp_path, cluster, "0", "15")
    launch = gate.start("launch")
    gate.wait_at_gate(2)
    launch.kill()
    launch.wait(60)
    assert len(writers(gate.out)) == 2
    gate.open()
    assert "0 runs in" in gate.call("launch") and states(gate.out) == ["done"] * 2
    assert set(starts(gate.out).values()) == {1}
    assert json.loads((launches.read_all(gate.out)[0].folder / "launch.json").read_text())["arrays"]
    assert are_whole(results(gate.out), undisturbed, 2)
