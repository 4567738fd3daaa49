"""Sweeps: planned, launched, killed, launched again."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sweeps_by_process import children, states, wait_for
from torch.utils.flop_counter import FlopCounterMode

from dgbench import cost, launch, lease, networks, records, registry, sweep
from dgbench.algorithm import Problem
from dgbench.collect import published, verdicts
from dgbench.errors import UsageError
from dgbench.plan import plan, read_plan
from dgbench.spec import RunSpec, domain

TIMES = ("seconds", "images_per_second", "memory_gb")
BROKEN = '''
from torch.nn.functional import cross_entropy
from dgbench.algorithm import Algorithm


class Broken(Algorithm):
    """Diverges at the second update."""

    def loss(self, batch):
        if self.step == 1:
            raise FloatingPointError("the loss is nan")
        return cross_entropy(self(batch.x), batch.y), {}
'''


def flags(out: Path, *extra: str) -> list[str]:
    grid = ["--datasets", "RotatedDigits", "--n_trials", "1", "--steps", "3", "--launcher", "serial"]
    return ["launch", "--algorithms", "ERM", *grid, "--output_dir", str(out), *extra]


def results(folder: Path) -> dict[str, list[Any]]:
    """{run: records without the times}."""
    return {
        path.parent.name: [
            {k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.glob("*/results.jsonl"))
    }


def test_a_grid_is_trials_by_targets_by_draws() -> None:
    runs = sweep.grid(["ERM", "PCL"], ["RotatedDigits"], n_trials=2, n_hparams=3)
    assert len(runs) == len({spec.run_id() for spec in runs}) == 2 * 2 * 6 * 3
    pairs = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=1, test_env_pairs=True)
    assert len(pairs) == 6 + 15
    of_one = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=1, test_env_pairs=True, envs=["15"])
    assert [spec.test_envs for spec in of_one][:3] == [("15",), ("0", "15"), ("15", "30")]
    assert len(of_one) == 1 + 5, "leave-one-domain-out of one target reads no other pair"
    for task in ("single_source", "retrieval"):
        with pytest.raises(UsageError, match="--test_env_pairs has no meaning"):
            sweep.grid(["ERM"], ["RotatedDigits"], test_env_pairs=True, task=task)
    single = sweep.grid(["ERM"], ["RotatedDigits"], n_trials=1, task="single_source", envs=["0", "30"])
    assert [spec.source_envs for spec in single] == [("0",), ("30",)]


def test_a_run_keeps_its_name() -> None:
    """The name of a run is part of every finished sweep on disk: a change here loses users' results."""
    spec = RunSpec("rotateddigits", "erm", test_envs=("1",)).resolved()
    assert spec == RunSpec("RotatedDigits", "ERM", test_envs=("15",)).resolved()
    assert spec.run_id() == "RotatedDigits-ERM-15-t0-h0-" + spec.run_id()[-8:]
    several = RunSpec("RotatedDigits", "ERM", test_envs=("30", "15", "1", "0")).resolved()
    assert several.test_envs == ("0", "15", "30"), "each once, in the data set's order"
    assert RunSpec.from_dict(spec.to_dict()).run_id() == spec.run_id()
    ids = {
        RunSpec("RotatedDigits", "ERM", test_envs=("15",), **change).resolved().run_id()
        for change in ({}, {"trial_seed": 1}, {"seed": 1}, {"hparams": {"lr": 0.1}}, {"steps": 9})
    }
    assert len(ids) == 5


@pytest.mark.parametrize("hparams", [{"lr": 1}, {"pcl_weight": 2, "batch_size": 8}])
def test_an_integer_for_a_float_names_the_same_run(hparams: dict[str, int]) -> None:
    floats = {name: value if name == "batch_size" else float(value) for name, value in hparams.items()}
    ids = [
        RunSpec("RotatedDigits", "PCL", test_envs=("15",), hparams=chosen).resolved().run_id()
        for chosen in (hparams, floats)
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", sweep.names())
def test_every_sweep_file_plans_runs(name: str) -> None:
    runs = sweep.load_file(name)
    assert runs and len({spec.run_id() for spec in runs}) == len(runs)
    launch.check(runs)  # names of hyper-parameters, what a task gives


def test_flags_change_the_runs_of_a_file_or_are_refused(tmp_path: Path) -> None:
    command = ["launch", "rcl_table2", "--output_dir", str(tmp_path / "out")]
    whole = sweep.runs_of(sweep.parse(command))
    assert whole == sweep.load_file("rcl_table2")
    words = ["--n_trials", "2", "--precision", "bf16", "--hparams", '{"rcl_margin": 0.3}']
    changed = sweep.runs_of(sweep.parse([*command, *words]))
    first = [spec for spec in whole if spec.trial_seed < 2]
    assert changed == [
        replace(spec, precision="bf16", hparams={**spec.hparams, "rcl_margin": 0.3}) for spec in first
    ]
    for word in (["--backbone", "resnet18"], ["--datasets", "PACS"], ["--n_hparams", "20"]):
        with pytest.raises(UsageError, match=f"decides {word[0]} itself; choose from: --n_trials, --steps"):
            sweep.main([*command, *word])


@pytest.mark.parametrize("name", ["pcl_pacs", "pcl_officehome", "pcl_terraincognita", "pcl_domainnet"])
def test_tables_of_pcl_are_trained_as_the_published_rows(name: str) -> None:
    """What ``results/published/protocols.json`` knows of PCL's and SWAD's rows, as the verdicts read it."""
    specs = sweep.load_file(name)
    for row, algorithm in (("PCL", "PCL"), ("SWAD", "ERM")):
        facts = verdicts.protocol(published.FOLDER, "pcl", row, specs[0].dataset, "pcl").facts
        own = [vars(spec) | {"averaging": "swad"} for spec in specs if spec.algorithm == algorithm]
        assert len(own) == 3 * len(registry.find("datasets", specs[0].dataset).domain_names(None))
        told = ("steps", "checkpoint_freq", "backbone", "pretrained", "freeze_bn", "image_size", "averaging")
        for values in own:
            assert {key: values[key] for key in told} == {key: facts[key] for key in told}
            assert facts.get("hparams", {}).items() <= values["hparams"].items()
    assert all(spec.averaging == ("swad",) for spec in specs)


@pytest.mark.parametrize("name", [name for name in sweep.names() if name.startswith(("fixclr_", "ssdg_"))])
def test_tables_of_fixclr_compare_it_with_each_base_alone(name: str) -> None:
    """Under FixCLR a base has the settings, the targets and the trials that it has alone."""
    alone: dict[str, set[RunSpec]] = {}
    on_top: dict[str, set[RunSpec]] = {}
    for spec in sweep.load_file(name):
        chosen = dict(spec.hparams)
        side, base = (on_top, chosen.pop("base")) if spec.algorithm == "FixCLR" else (alone, spec.algorithm)
        side.setdefault(base, set()).add(replace(spec, algorithm=base, hparams=tuple(sorted(chosen.items()))))
    assert on_top and all(alone[base] == runs for base, runs in on_top.items())
    assert {"ERM"} <= alone.keys() - on_top.keys()


def test_dry_run_prints_runs_and_cost_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(flags(tmp_path / "out", "--dry_run")) == 0
    text = capsys.readouterr().out
    assert text.count("waiting") == 6 and '"lr": 0.001' in text and "6 runs, 6 to do: about" in text
    assert not (tmp_path / "out").exists()


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    cases = {
        "--workers -1 must not be negative": ["--workers", "-1"],
        "--threads -1 must be at least 0": ["--threads", "-1"],
        "--n_hparams_from 2 must be below --n_hparams": ["--n_hparams_from", "2"],
        "--steps and --checkpoint_freq must be at least 1": ["--steps", "0"],
        "--watch has no meaning for launch": ["--watch"],
        "unknown algorithm": ["--algorithms", "EMR"],
        "unknown launcher": ["--launcher", "slrm"],
        "unknown dataset": ["--datasets", "PAC"],
        "unknown hyper-parameter": ["--hparams", '{"x": 1}'],
        "unknown domain": ["--envs", "7"],
        "--task retrieval needs two domains, --envs 0 leaves RotatedDigits one; choose from: 0, 15": [
            *("--task", "retrieval", "--envs", "0", "--dry_run")
        ],
    }
    for message, extra in cases.items():
        with pytest.raises(UsageError, match=message):
            sweep.main(flags(tmp_path / "out", *extra))
    with pytest.raises(
        UsageError, match=r"give --algorithms and --datasets, or a sweep file; choose from: .*pcl_pacs"
    ):
        sweep.main(["launch", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(UsageError, match="out does not exist"):
        sweep.main(["logs", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(UsageError, match=r"--watch -1\.0 must not be negative"):
        sweep.main(["status", *flags(tmp_path / "out", "--watch", "-1")[1:]])
    assert not (tmp_path / "out").exists()


def test_done_runs_are_skipped_and_a_failure_neither_stops_nor_hides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plugin = tmp_path / "out", tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    extra = ["--algorithms", "Broken", "ERM", "--envs", "0", "15", "--plugin", str(plugin)]
    assert sweep.main(flags(out, *extra)) == 1
    text = capsys.readouterr().out
    assert "0 waiting, 0 queued, 0 running, 2 failed, 2 done" in text
    assert text.count("FloatingPointError: the loss is nan") == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("*ERM*/*")}
    assert sweep.main(flags(out, *extra)) == 1, "failed runs are not tried again by launch"
    assert "0 runs in" in capsys.readouterr().out
    plugin.write_text(BROKEN.replace("self.step == 1", "False"))
    retry = ["retry", *flags(out, *extra)[1:]]
    done = subprocess.run([sys.executable, "-m", "dgbench.sweep", *retry], capture_output=True, text=True)
    assert done.returncode == 0 and "0 failed, 4 done" in done.stdout
    planned = read_plan(out)
    (out / "sweep.json").unlink()
    assert sweep.main(flags(out, *extra)) == 0
    assert read_plan(out) == planned, "a lost plan comes back with nothing left to do"
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*ERM*/*")}


def test_a_launch_waits_for_a_run_that_another_process_writes_and_may_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "LOOK_SECONDS", 0.05)
    out, command = tmp_path / "out", flags(tmp_path / "out", "--envs", "0", "15")
    first, second = sweep.runs_of(sweep.parse(command))
    (out / first.run_id()).mkdir(parents=True)
    order: list[str] = []

    def hold() -> None:
        with lease.hold(out / first.run_id()):
            held.set()
            wait_for((out / second.run_id() / "done").exists)
            order.append("let go")

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert sweep.main(command) == 0
    other.join()
    assert order == ["let go"] and states(out) == ["done"] * 2


def test_runs_on_other_images_are_not_taken_for_done(tmp_path: Path) -> None:
    """ImageFolders is one name for whatever is in a folder."""
    for root, domains in (("mine", "ab"), ("other", "ab"), ("more", "abc")):
        for i, place in enumerate(product(domains, ("cat", "dog"), range(5))):
            folder = tmp_path / root / place[0] / place[1]
            folder.mkdir(parents=True, exist_ok=True)
            colour = (i, 9 if root == "other" else 7, 0)
            Image.new("RGB", (8, 8), colour).save(folder / f"{place[2]}.png")
    command = [
        "launch",
        "--algorithms",
        "ERM",
        "--datasets",
        "ImageFolders",
        "--n_trials",
        "1",
        "--envs",
        "a",
    ]
    command += ["--backbone", "mnist_cnn", "--image_size", "16", "--steps", "1", "--launcher", "serial"]
    command += ["--hparams", '{"batch_size": 2}', "--output_dir", str(tmp_path / "out"), "--data_dir"]
    assert sweep.main([*command, str(tmp_path / "mine")]) == 0
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert sweep.main([*command, str(tmp_path / "moved")]) == 0, "moving the data changes nothing"
    for root, differing in (("other", "a, b"), ("more", "c")):
        with pytest.raises(
            UsageError, match=f"has runs on other images than those in .*{root}: {differing} diff"
        ):
            sweep.main([*command, str(tmp_path / root)])


def test_retry_takes_failed_runs_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = plan(out, sweep.runs_of(sweep.parse(flags(out, "--envs", "0", "15"))))
    records.write_error(out / planned[0].run_id(), "Traceback\nOSError: no space left\n")
    sweep.main(["retry", "--output_dir", str(out), "--launcher", "serial"])
    assert [records.state(out / spec.run_id()) for spec in planned] == ["done", "waiting"]


def test_flags_choose_among_the_planned_runs_or_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path, sweep.grid(["ERM", "SD"], ["RotatedDigits"], 1))
    here = ["--output_dir", str(tmp_path)]
    for given, count in (([], 12), (["--algorithms", "sd"], 6), (["--datasets", "RotatedDigits"], 12)):
        assert len(sweep.runs_of(sweep.parse(["status", *given, *here]))) == count
    with pytest.raises(UsageError, match="--algorithms leaves no run"):
        sweep.main(["status", "--algorithms", "PCL", *here])
    for given in (["--steps", "7"], ["--algorithms", "ERM", "--n_trials", "1"]):
        with pytest.raises(UsageError, match="needs --algorithms and --datasets"):
            sweep.main(["retry", *given, *here])
    with pytest.raises(UsageError, match="--dry_run has no meaning for cancel"):
        sweep.main(["cancel", "--dry_run", *here])
    with pytest.raises(UsageError, match="holds no sweep"):
        sweep.main(["status", "--output_dir", str(tmp_path / "other")])
    (tmp_path / "records.jsonl.gz").touch()
    with pytest.raises(UsageError, match="is a published sweep"):
        sweep.main(["status", *here])
    (tmp_path / "records.jsonl.gz").unlink()
    (tmp_path / "spec.json").touch()
    with pytest.raises(UsageError, match="holds a run; give another folder"):
        sweep.main(["launch", "--algorithms", "ERM", "--datasets", "RotatedDigits", *here])
    (tmp_path / "spec.json").unlink()
    (tmp_path / "sweep.json").write_text('{"specs": [')
    with pytest.raises(UsageError, match=r"sweep.json is damaged; remove it and launch again"):
        sweep.main(["status", *here])


@pytest.mark.parametrize(
    ("dataset", "data"),
    [("PACS", None), ("PACS", "here"), ("ColoredMNIST", None), ("ColoredMNIST", "here")],
)
def test_missing_data_is_one_line_before_any_run(tmp_path: Path, dataset: str, data: str | None) -> None:
    flags = ["--algorithms", "ERM", "--datasets", dataset, "--output_dir", str(tmp_path / "out")]
    given = ["--data_dir", str(tmp_path / data)] if data else []
    with pytest.raises(UsageError, match=rf"{dataset}.*with make: DATA=FOLDER"):
        sweep.main(["launch", *flags, *given, "--launcher", "serial"])
    assert not (tmp_path / "out").exists()


def test_a_domain_is_first_looked_for_as_it_is_written() -> None:
    assert [domain(name, ("a", "A", "b")) for name in ("a", "A", "B", "1")] == ["a", "A", "b", "A"]


PLANNER = """
import sys
from pathlib import Path
from dgbench.plan import plan
from dgbench.spec import RunSpec
for seed in range(25):
    plan(Path(sys.argv[1]), [RunSpec("RotatedDigits", sys.argv[2], test_envs=("0",), trial_seed=seed)])
"""


def test_launches_that_plan_at_once_lose_no_run(tmp_path: Path) -> None:
    names = ("ERM", "SD", "IRM")
    planners = [subprocess.Popen([sys.executable, "-c", PLANNER, tmp_path, name]) for name in names]
    assert [planner.wait() for planner in planners] == [0, 0, 0]
    assert len(read_plan(tmp_path)) == 75 and [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_sweep_that_had_jobs_goes_on_where_slurm_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / ".submit" / "then-0123abcd").mkdir(parents=True)
    runs = [spec.run_id() for spec in sweep.grid(["ERM"], ["RotatedDigits"], 1, envs=("0",), steps=3)]
    told = {"launcher": "slurm", "arrays": [{"name": "dgb-out-0", "tasks": [runs], "job": "12"}]}
    (out / ".submit" / "then-0123abcd" / "launch.json").write_text(json.dumps(told))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep.main(flags(out, "--envs", "0")) == 0
    assert "which cannot be asked: squeue is not on PATH" in capsys.readouterr().err
    assert states(out) == ["done"]


@pytest.mark.slow
def test_pool_and_serial_give_the_same_records(tmp_path: Path) -> None:
    """The same, though the pool is killed once and one of its workers is, too; its run is tried again."""
    serial, pooled = tmp_path / "serial", tmp_path / "pool"
    assert sweep.main(flags(serial, "--steps", "200", "--checkpoint_freq", "50")) == 0
    extra = ("--steps", "200", "--checkpoint_freq", "50", "--launcher", "pool", "--workers", "2")
    command = [sys.executable, "-m", "dgbench.sweep", *flags(pooled, *extra)]

    parent = subprocess.Popen(command, start_new_session=True)
    wait_for(lambda: any(pooled.glob("*/results.jsonl")))
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()

    parent = subprocess.Popen(command, start_new_session=True)
    wait_for(lambda: "running" in states(pooled) and children(parent.pid))
    os.kill(children(parent.pid)[0], signal.SIGKILL)
    assert parent.wait(120) == 0
    assert states(pooled) == ["done"] * 6
    assert results(pooled) == results(serial)


@pytest.mark.parametrize(
    "backbone, shape", [("digits_cnn", (1, 8, 8)), ("two_conv", (3, 28, 28)), ("resnet18", (3, 64, 64))]
)
def test_the_cost_of_a_run_counts_what_torch_counts(backbone: str, shape: tuple[int, int, int]) -> None:
    net = networks.featurizer(Problem(shape, 2, 1, 1, 1, backbone=backbone), {"resnet_dropout": 0.0}).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape))
    assert cost._flops_per_image(backbone, shape) == counter.get_total_flops()


def test_a_run_on_frozen_features_costs_its_steps() -> None:
    trained, frozen = (
        RunSpec("PACS", "ERM", test_envs=("0",), backbone="resnet18", frozen=frozen, steps=300).resolved()
        for frozen in (False, True)
    )
    assert cost.seconds_per_run(frozen)[1] == 0.3 < cost.seconds_per_run(trained)[1]
