"""Many runs as one program: each leaves what it leaves alone, up to the rounding of float32."""

import json
import multiprocessing
import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dgbench import launch, lease, records, registry, sweep, train, vectorized
from dgbench.algorithm import Algorithm, Batch, Logs
from dgbench.course import opened
from dgbench.machine import Machine
from dgbench.spec import RunSpec

MACHINE = Machine(threads=1)
TIMES = ("seconds", "images_per_second", "memory_gb")


def specs(algorithm: str, *chosen: dict[str, Any], **fixed: Any) -> list[RunSpec]:
    """One run per choice of hyper-parameters, each of a trial of its own; SGD, whose steps do not amplify
    the rounding of tiny gradients as Adam's do."""
    fixed = {"steps": 6, "checkpoint_freq": 2, **fixed}
    shared = {"optimizer": "sgd", "momentum": 0.9, "batch_size": 16}
    return [
        RunSpec(
            "RotatedDigits", algorithm, test_envs=("0",), trial_seed=i, hparams={**shared, **own}, **fixed
        ).resolved()
        for i, own in enumerate(chosen)
    ]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def same(a: Path, b: Path) -> None:
    """Both folders hold the same files, records and weights."""
    assert {f.name for f in a.iterdir()} == {f.name for f in b.iterdir()}
    assert (a / "weights.pt").stat().st_size == (b / "weights.pt").stat().st_size
    for left, right in zip(lines(a), lines(b), strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"losses", "metrics", *TIMES}:
            assert left[key] == right[key]
        for key in ("losses", "metrics"):
            assert left[key] == pytest.approx(right[key], rel=1e-4, abs=1e-6)
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (a, b))
    assert ours.keys() == theirs.keys()
    for kind in ours:
        for name, value in ours[kind].items():
            torch.testing.assert_close(value, theirs[kind][name], rtol=1e-4, atol=1e-5)


# without PCL's threshold on cosines ("aligned"), at which rounding decides whether a pair counts
CASES = {
    "ERM": [{"lr": 0.1}, {"lr": 0.03, "weight_decay": 1e-3}, {"lr": 0.01}],
    "PCL": [
        {"variant": "paper", "lr": 0.1, "pcl_weight": 0.3, "head_dropout": 0.0},
        {"variant": "paper", "lr": 0.05, "pcl_weight": 2.0, "alpha": 5.0, "head_dropout": 0.5},
        {"variant": "paper", "lr": 0.02, "head_dropout": 0.1},
    ],
    "GroupDRO": [{"lr": 0.1, "groupdro_eta": 0.3}, {"lr": 0.1, "groupdro_eta": 0.001}],
    "VREx": [
        {"lr": 0.1, "vrex_lambda": 10.0, "vrex_penalty_anneal_iters": 3},
        {"lr": 0.1, "vrex_lambda": 1.0, "vrex_penalty_anneal_iters": 3},
    ],
}


@pytest.mark.parametrize("algorithm", CASES)
def test_a_group_leaves_what_its_runs_leave_alone(
    tmp_path: Path, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = specs(algorithm, *CASES[algorithm], averaging=("ema",))
    assert launch.Todo(runs, tmp_path).take_alike(8) == runs
    vectorized.run_group(runs, tmp_path / "group", MACHINE)
    assert capsys.readouterr().err == "", "it did not fall back"
    for spec in runs:
        train.run(spec, tmp_path / "alone" / spec.run_id(), MACHINE)
        same(tmp_path / "group" / spec.run_id(), tmp_path / "alone" / spec.run_id())


def test_runs_of_one_shape_are_taken_together(tmp_path: Path) -> None:
    a, b, c = specs("ERM", {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3})
    wide = replace(c, hparams={**c.hparams, "batch_size": 32})
    longer, elsewhere, other = replace(a, steps=9), replace(a, test_envs=("15",)), replace(a, algorithm="SD")
    runs = [a, wide, b, longer, elsewhere, other, c]
    assert list(launch.Todo(runs, tmp_path).together(8)) == [
        [a, b, c],
        [wide],
        [longer],
        [elsewhere],
        [other],
    ]
    assert list(launch.Todo([a, b, c], tmp_path).together(2)) == [[a, b], [c]]
    assert list(launch.Todo([a, b, c], tmp_path).together(1)) == [[a], [b], [c]]


def test_a_run_that_was_given_back_is_held_or_over_joins_no_other(tmp_path: Path) -> None:
    a, b, c = specs("ERM", {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3})
    todo = launch.Todo([a, c], tmp_path)
    todo.put_back(b)
    assert list(todo.together(8)) == [[a, c], [b]]
    (tmp_path / b.run_id()).mkdir()
    with lease.hold(tmp_path / b.run_id()):
        assert launch.Todo([a, b, c], tmp_path).take_alike(8) == [a, c]
    (tmp_path / b.run_id() / "done").touch()
    assert list(launch.Todo([a, b, c], tmp_path).together(8)) == [[a, c]]


@pytest.mark.parametrize("launcher", ["serial", "pool"])
def test_a_sweep_trains_alike_runs_together(
    tmp_path: Path, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    original = launch.Todo.take_alike

    def take_alike(todo: launch.Todo, most: int) -> list[RunSpec]:
        found = original(todo, most)
        taken.extend([len(found)] if found else [])
        return found

    monkeypatch.setattr(launch.Todo, "take_alike", take_alike)
    flags = ["launch", "--algorithms", "ERM", "--datasets", "RotatedDigits", "--envs", "0", "--steps", "4"]
    flags += ["--workers", "1", "--launcher", launcher, "--checkpoint_freq", "2"]
    for name, vectorize, groups in (("together", "2", [2, 1]), ("alone", "1", [1, 1, 1])):
        taken.clear()
        assert sweep.main([*flags, "--vectorize", vectorize, "--output_dir", str(tmp_path / name)]) == 0
        assert taken == groups
    runs = [path.parent.name for path in (tmp_path / "together").glob("*/done")]
    assert len(runs) == 3
    for run in runs:
        a, b = (lines(tmp_path / name / run)[-1] for name in ("together", "alone"))
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-3)


def test_runs_of_one_program_share_its_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        runs = specs("ERM", {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3})
        found = [stack.enter_context(opened(spec, tmp_path / spec.run_id(), MACHINE)) for spec in runs]
        vectorized.Program([own for own in found if own is not None])
        assert [own.state.meter.sharing for own in found if own is not None] == [3, 3, 3]


def test_taken_runs_train_as_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[RunSpec]] = []
    original = vectorized.run_group

    def run_group(runs: list[RunSpec], folder: Path, machine: Machine) -> None:
        seen.append(runs)
        original(runs, folder, machine)

    monkeypatch.setattr(vectorized, "run_group", run_group)
    a, b, c = specs("ERM", {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3})
    for group in ([a, b], [c]):
        assert [state for state, _ in launch.attempt_together(group, tmp_path, MACHINE)] == ["done"] * len(
            group
        )
    assert seen == [[a, b]]


def test_a_run_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    good, bad, also_good = specs("ERM", {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3})
    (tmp_path / bad.run_id()).mkdir()
    (tmp_path / bad.run_id() / "strange.txt").touch()  # the folder of another thing
    found = launch.attempt_together([good, bad, also_good], tmp_path, MACHINE)
    assert [state for state, _ in found] == ["done", "failed", "done"]
    assert not (tmp_path / good.run_id() / "error.txt").exists()


class Large(Algorithm):
    """Fails in one program with others, as where memory suffices for one run."""

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        if self.step == 1 and torch._C._functorch.is_batchedtensor(batch.x):
            raise ValueError("too large")
        return cross_entropy(self(batch.x), batch.y), {}


def test_a_group_that_fails_leaves_no_failed_run(tmp_path: Path) -> None:
    """A launch that is killed while they train alone goes on with all of them."""
    with registry.registered(Large):
        runs = specs("Large", {"lr": 0.1}, {"lr": 0.2})
        with pytest.raises(ValueError, match="too large"):
            vectorized.run_group(runs, tmp_path, MACHINE)
        assert [records.state(tmp_path / spec.run_id()) for spec in runs] == ["waiting"] * 2
        assert [state for state, _ in launch.attempt_together(runs, tmp_path, MACHINE)] == ["done"] * 2


class Fixed(Algorithm):
    """Reads its weight once, when it is made: one program for all would use the first run's."""

    hparams = {"scale": (1.0, None)}

    def __init__(self, problem: Any, hp: Any) -> None:
        super().__init__(problem, hp)
        self.scale = hp["scale"]

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        return self.scale * cross_entropy(self(batch.x), batch.y), {}


REASONS = {
    "Mixup": "it draws random numbers",
    "DANN": "its update is its own",
    "Fixed": "come out differently",
    "Fishr": "must be bool, not Tensor",
}
OTHERS = {"Fixed": {"scale": 2.0}, "Fishr": {"lambda": 10.0}}


@pytest.mark.parametrize("algorithm", REASONS)
def test_falls_back_to_one_run_at_a_time(
    tmp_path: Path, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectorized._tell.cache_clear()
    with registry.registered(Fixed):
        both = {"penalty_anneal_iters": 0} if algorithm == "Fishr" else {}
        runs = specs(algorithm, {"lr": 0.1, **both}, {"lr": 0.2, **both, **OTHERS.get(algorithm, {})})
        vectorized.run_group(runs, tmp_path / "group", MACHINE)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and REASONS[algorithm] in told
        for spec in runs:
            train.run(spec, tmp_path / "alone" / spec.run_id(), MACHINE)
            same(tmp_path / "group" / spec.run_id(), tmp_path / "alone" / spec.run_id())


def _killed_at_save(number: int, runs: list[RunSpec], folder: Path) -> None:
    torch.set_num_threads(1)
    original, calls = torch.save, iter(range(1, 100))

    def save(*args: Any) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args)

    torch.save = save
    vectorized.run_group(runs, folder, MACHINE)


@pytest.mark.parametrize("number", [2, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 7))])
def test_a_killed_group_goes_on(tmp_path: Path, number: int) -> None:
    """Killed while some runs have saved a step and others have not; one of them goes on alone."""
    torch.set_num_threads(1)
    runs = specs("PCL", *CASES["PCL"])
    folder = tmp_path / "group"
    process = multiprocessing.get_context("fork").Process(target=_killed_at_save, args=(number, runs, folder))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    train.run(runs[1], folder / runs[1].run_id(), MACHINE)
    vectorized.run_group(runs, folder, MACHINE)
    for spec in runs:
        train.run(spec, tmp_path / "alone" / spec.run_id(), MACHINE)
        same(folder / spec.run_id(), tmp_path / "alone" / spec.run_id())
