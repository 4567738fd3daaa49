"""Soups of finished runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgbench import collect_results, soup, sweep
from dgbench.build import build
from dgbench.course import evaluate
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.plan import read_plan

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


def test_a_greedy_soup_is_no_worse_on_validation_than_its_best_member(runs: Path, tmp_path: Path) -> None:
    record = cook(runs, tmp_path / "soup", "--greedy")
    best = max(
        soup.validation(soup._last_raw(runs / spec.run_id())["metrics"], record["parts"])
        for spec in read_plan(runs)
    )
    assert soup.validation(record["metrics"], record["parts"]) >= best - 1e-9


def test_the_collector_prints_a_soup(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cook(runs, tmp_path / "soup")
    assert collect_results.main(["--input_dir", str(tmp_path / "soup")]) == 0
    assert "ERM + soup (over=hparams)" in capsys.readouterr().out


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
    with pytest.raises(UsageError, match="holds no sweep"):
        cook(tmp_path, tmp_path / "soup")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        cook(tmp_path / "nowhere", tmp_path / "soup")
