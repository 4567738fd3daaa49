"""A large generated sweep, collected twice. ``DGBENCH_SCALE``: its records; DomainBed's had 1,833,734.

Times are printed (``pytest -s``), never asserted.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from generate_sweep import write_domainbed, write_ours

from dgbench.collect import formats, rules, run_cache, tables
from dgbench.collect.load import load

pytestmark = pytest.mark.slow
RECORDS = int(os.environ.get("DGBENCH_SCALE", "20000"))
RUNS = max(RECORDS // 50, 100)


def collect(folder, title, rule=rules.DEFAULT):
    started = time.perf_counter()
    sweep = load(folder)
    text = formats.text(tables.build(sweep, rules.RULES[rule]))
    print(
        f"\n{title}: {sum(len(run.columns) for run in sweep.runs)} records, {len(sweep.runs)} runs, "
        f"{time.perf_counter() - started:.1f} s"
    )
    return sweep, text


def naive(folder, dataset, algorithm, target):
    """The cell by a plain reading: per trial the best mean source accuracy, then the mean over trials."""
    best = {}
    for path in folder.glob(f"{dataset}-{algorithm}-{target}-t*"):
        for line in (path / "results.jsonl").read_text().splitlines():
            record = json.loads(line)
            trial, metrics = record["spec"]["trial_seed"], record["metrics"]
            score = np.mean([metrics[f"{part}/acc"] for part in record["parts"]["validation"]])
            best[trial] = max(best.get(trial, (-1.0, 0.0)), (score, metrics[f"{target}/in/acc"]))
    return [test for _, test in best.values()]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setattr(run_cache, "LEAST_BYTES", 1)
    monkeypatch.setattr(run_cache, "RACE_SECONDS", 0.0)
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))


def test_a_large_sweep_of_ours(tmp_path, kept):
    folder = tmp_path / "sweep"
    assert write_ours(folder, RECORDS) == RECORDS
    first, text = collect(folder, "from its files")
    second, again = collect(folder, "from the cache")
    assert sum(len(run.columns) for run in first.runs) == RECORDS
    assert all(isinstance(run.columns.values.base, np.memmap) for run in second.runs)
    assert again == text
    table = next(t for t in tables.build(second, rules.RULES[rules.DEFAULT]) if t.dataset == "RotatedMNIST")
    row = next(row for row in table.rows if row.label == "CORAL")
    expected = 100 * np.mean(naive(folder, "RotatedMNIST", "CORAL", "15"))
    assert row.cells[1].mean == pytest.approx(expected)


def test_a_large_sweep_in_domainbeds_format(tmp_path, kept):
    folder = tmp_path / "sweep"
    assert write_domainbed(folder, RUNS) == 10 * RUNS
    _, text = collect(folder, "DomainBed's, from its files")
    _, again = collect(folder, "DomainBed's, from the cache")
    assert again == text
    assert len(list(Path(folder).iterdir())) == RUNS
