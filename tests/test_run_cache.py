import json
import os
import time
from dataclasses import asdict

import numpy as np
import pytest
from literal_runs import constant, record, spec, write, write_simple

from dgbench.collect import load, run_cache


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Two runs written long ago, large enough to be kept."""
    monkeypatch.setattr(run_cache, "LEAST_BYTES", 1)
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))
    for trial in (0, 1):
        run = spec(trial_seed=trial, averaging=("swad",), hparams={"lr": 0.1})
        lines = [
            record(run, 600, constant(run, 0.5, 0.6), kind, {"art": {"hash": "a"}})
            for kind in ("raw", "swad")
        ]
        lines[0] |= {"code": "1", "hparams": {"lr": 0.1}, "seconds": {"train": 3.0, "evaluate": 1.0}}
        age(write(tmp_path / "runs", run, lines))
    return tmp_path / "runs"


def age(folder, seconds=60):
    for path in (*folder.iterdir(), folder):
        then = time.time() - seconds
        os.utime(path, (then, then))


def plain(sweep):
    """All that a sweep holds, comparable."""
    return [
        {
            **asdict(run),
            "columns": [run.columns.names, run.columns.kinds, run.columns.parts],
            "codes": [*run.codes],
            "fingerprints": {domain: sorted(told) for domain, told in run.fingerprints.items()},
            "values": run.columns.values.tobytes(),
        }
        for run in sweep.runs
    ]


def read_files(monkeypatch, folder):
    """The runs, and the names of those that were read from their own files."""
    read = []
    original = load.load_run
    monkeypatch.setattr(
        load, "load_run", lambda path, planned=None: read.append(path) or original(path, planned)
    )
    found = load.load(folder)
    monkeypatch.setattr(load, "load_run", original)
    return found, [os.path.basename(path) for path in read]


def test_the_second_reading_equals_the_first(sweep, monkeypatch):
    first, read = read_files(monkeypatch, sweep)
    assert len(read) == 2
    second, read = read_files(monkeypatch, sweep)
    assert read == []
    assert plain(second) == plain(first)
    assert second.runs[0].columns["seconds"].tolist()[0] == 4.0


def rewrite(folder):
    path = folder / "results.jsonl"
    text = path.read_text()
    stat = path.stat()
    path.write_text(text.replace("0.6", "0.7"))  # the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def append_line(folder):
    stat = (folder / "results.jsonl").stat()
    with open(folder / "results.jsonl", "a") as file:
        file.write("{}\n")
    os.utime(folder / "results.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def fail(folder):
    (folder / "done").unlink()
    (folder / "error.txt").write_text("RuntimeError: no\n")


def change_spec(folder):
    values = json.loads((folder / "spec.json").read_text()) | {"trial_seed": 7}
    (folder / "spec.json").write_text(json.dumps(values))


@pytest.mark.parametrize("change", [rewrite, append_line, fail, change_spec])
def test_a_changed_run_is_read_anew(sweep, monkeypatch, change):
    load.load(sweep)
    changed = sorted(sweep.iterdir())[0]
    change(changed)
    found, read = read_files(monkeypatch, sweep)
    assert read == [changed.name]
    assert plain(found) == plain(load.load(sweep, cache=False))


def test_runs_that_come_and_go(sweep, monkeypatch):
    load.load(sweep)
    first, _ = sorted(sweep.iterdir())
    for path in first.iterdir():
        path.unlink()
    first.rmdir()
    age(write_simple(sweep, spec(trial_seed=2), 0.5))
    found, read = read_files(monkeypatch, sweep)
    assert read == [spec(trial_seed=2).run_id()]
    assert {run.spec.trial_seed for run in found.runs} == {1, 2}
    assert read_files(monkeypatch, sweep)[1] == []


def test_a_run_that_was_just_written_is_read_again(sweep, monkeypatch):
    write_simple(sweep, spec(trial_seed=2), 0.5)
    load.load(sweep)
    assert read_files(monkeypatch, sweep)[1] == [spec(trial_seed=2).run_id()]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"version": 0}', b'{"version": 1, "data": "x", "rows": []}']
)
def test_a_damaged_cache_is_no_obstacle(sweep, tmp_path, content):
    first = load.load(sweep)
    (index,) = (tmp_path / "cache" / "records").glob("*/index.json")
    index.write_bytes(content)
    assert plain(load.load(sweep)) == plain(first)


def test_a_cache_that_cannot_be_written_is_no_obstacle(sweep, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    assert len(load.load(sweep).runs) == 2


def test_small_sweeps_and_no_cache_leave_nothing(sweep, tmp_path, monkeypatch):
    load.load(sweep, cache=False)
    monkeypatch.setattr(run_cache, "LEAST_BYTES", 10**9)
    load.load(sweep)
    assert not (tmp_path / "cache").exists()


def test_nan_and_absence_survive(sweep, monkeypatch):
    run = spec(trial_seed=3)
    line = record(run, 600, constant(run, float("nan"), 0.5))
    other = record(run, 300, {**constant(run, 0.5, 0.5), "art/in": 0.5})
    age(write(sweep, run, [line, other]))
    values = [
        next(r for r in load.load(sweep).runs if r.spec.trial_seed == 3).columns.values for _ in range(2)
    ]
    assert isinstance(values[1].base, np.memmap)
    assert values[0].tobytes() == values[1].tobytes()
