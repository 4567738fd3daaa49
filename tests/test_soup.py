"""Soups of finished runs."""

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from dgbench import collect_results, soup, sweep
from dgbench.build import build
from dgbench.course import evaluate
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.plan import read_plan
from dgbench.spec import RunSpec

GRID = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--envs", "0", "--steps", "8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One target, one trial, three draws."""
    out = tmp_path_factory.mktemp("sweep")
    flags = ["--n_trials", "1", "--n_hparams", "3", "--launcher", "serial", "--output_dir", str(out)]
    assert sweep.main(["launch", *GRID, *flags]) == 0
    return out


def cook(runs: Path, to: Path, *extra: str) -> dict:
    assert soup.main(["--input_dir", str(runs), "--output_dir", str(to), "--threads", "1", *extra]) == 0
    (line,) = (path.read_text() for path in to.glob("*/results.jsonl"))
    return json.loads(line)


def test_a_uniform_soup_is_the_mean_of_the_weights(runs: Path, tmp_path: Path) -> None:
    record = cook(runs, tmp_path / "soup")
    plan = read_plan(runs)
    built = build(plan[0], Machine(threads=1))
    states = [torch.load(runs / s.run_id() / "weights.pt", weights_only=True)["raw"] for s in plan]
    with torch.no_grad():
        for name, parameter in built.algorithm.named_parameters():
            parameter.copy_((states[0][name] + states[1][name] + states[2][name]) / 3)
    assert record["metrics"] == pytest.approx(evaluate(built), abs=1e-6)
    assert record["averaging"]["members"] == [spec.run_id() for spec in plan]


def test_validation_is_of_the_sources() -> None:
    parts = {"validation": ["a/out", "b/out"], "test": ["c/in"], "oracle": ["c/out"]}
    metrics = {"a/out/acc": 0.5, "b/out/acc": 1.0, "c/in/acc": 0.1, "c/out/acc": 0.2, "a/out/loss": 9.0}
    assert soup.validation(metrics, parts) == 0.75


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_greedy_soup_takes_what_validation_does_not_lose_by(runs: Path, tmp_path: Path, first: int) -> None:
    """Recomputed one by one, from the best run on: here the one whose records are made to say so."""
    mine = tmp_path / "runs"
    shutil.copytree(runs, mine)
    plan = read_plan(mine)
    told = []
    for place, spec in enumerate(plan):
        path = mine / spec.run_id() / "results.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        own = 0.9 - 0.1 * ((place - first) % 3)
        for line, sign in (
            (lines[0], -1),
            (lines[-1], 1),
        ):  # at the first evaluation, and on the target, the other way round
            line["metrics"] = {k: -own * sign if k.startswith("0/") else own * sign for k in line["metrics"]}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        told.append(spec.run_id())
    record = cook(mine, tmp_path / "soup", "--greedy")

    built = build(plan[0], Machine(threads=1))
    states = [torch.load(mine / run / "weights.pt", weights_only=True)["raw"] for run in told]

    def of(members: list[int]) -> float:
        mean = {name: sum(states[i][name] for i in members) / len(members) for name in states[0]}
        built.algorithm.load_state_dict(mean)
        found = evaluate(built)
        return sum(found[f"{d}/out/acc"] for d in ("15", "30", "45", "60", "75")) / 5

    chosen = [first]
    for candidate in ((first + 1) % 3, (first + 2) % 3):
        if of([*chosen, candidate]) >= of(chosen):
            chosen.append(candidate)
    assert record["averaging"] == {"members": [told[i] for i in chosen], "of": told}
    assert soup.validation(record["metrics"], record["parts"]) == pytest.approx(of(chosen), abs=1e-6)


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_batch_norm_of_a_soup_is_estimated_where_it_trains(
    freeze_bn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soup, "OFFICIAL_BN_BATCHES", 2)
    spec = RunSpec("RotatedDigits", "ERM", test_envs=("0",), backbone="resnet18", pretrained="none", steps=2)
    built = build(replace(spec, freeze_bn=freeze_bn).resolved(), Machine(threads=1))
    states = [copy.deepcopy(built.algorithm.state_dict()) for _ in range(2)]
    name = next(name for name in states[0] if name.endswith("running_mean"))
    for value, state in enumerate(states):
        state[name].fill_(value)
    soup.cook(built, states)
    found = built.algorithm.state_dict()[name]
    if freeze_bn:
        assert torch.equal(found, torch.full_like(found, 0.5)), "the mean of the members"
    else:
        conv = built.algorithm.featurizer.get_submodule("net.conv1")
        batches = [conv(x).mean((0, 2, 3)) for x in islice(built.training_images(), 2)]
        torch.testing.assert_close(found, sum(batches) / 2, rtol=1e-4, atol=1e-5)


def test_the_collector_prints_a_soup(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cook(runs, tmp_path / "soup")
    assert collect_results.main(["--input_dir", str(tmp_path / "soup")]) == 0
    assert "ERM + soup (over=hparams)" in capsys.readouterr().out


def test_soups_beside_their_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    shutil.copytree(runs, out)
    for extra in ((), ("--greedy",)):
        command = ["--input_dir", str(out), "--output_dir", str(out), "--threads", "1"]
        assert soup.main([*command, *extra]) == 0
    assert collect_results.main(["--input_dir", str(out), "--compare"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("ERM")]
    assert rows == ["ERM", "ERM + soup (over=hparams)", "ERM + soup (over=hparams,greedy)"]


def test_a_plugin_is_loaded(tmp_path: Path) -> None:
    plugin, out, to = tmp_path / "mine.py", tmp_path / "sweep", tmp_path / "soup"
    plugin.write_text("from dgbench.algorithms.erm import ERM\n\n\nclass Mine(ERM):\n    pass\n")
    flags = ["--algorithms", "Mine", *GRID[2:], "--n_hparams", "2", "--n_trials", "1", "--launcher", "serial"]
    ours = ["--plugin", str(plugin)]
    for command in (
        ["dgbench.sweep", "launch", *flags, *ours, "--output_dir", str(out)],
        ["dgbench.soup", "--input_dir", str(out), *ours, "--output_dir", str(to)],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True)
    assert len(list(to.glob("*/results.jsonl"))) == 1


def test_what_cannot_be_averaged(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the only run of its kind"):
        cook(runs, tmp_path / "soup", "--over", "trials")
    with pytest.raises(UsageError, match="b has other shapes"):
        soup.mean([{"a": torch.ones(2), "b": torch.ones(3)}, {"a": torch.ones(2), "b": torch.ones(4)}])
    with pytest.raises(UsageError, match="hiddens has other shapes"):
        soup.mean([{"a": torch.ones(2)}, {"a": torch.ones(2), "hiddens": torch.ones(4)}])
    cook(runs, tmp_path / "made")
    with pytest.raises(UsageError, match="holds soups alone"):
        cook(tmp_path / "made", tmp_path / "soup")
    with pytest.raises(UsageError, match="which retrieval lacks"):
        soup.validation({"0>15/P@1": 0.5}, {"validation": [], "test": ["0>15"]})
    with pytest.raises(UsageError, match="holds no sweep"):
        cook(tmp_path, tmp_path / "soup")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        cook(tmp_path / "nowhere", tmp_path / "soup")
