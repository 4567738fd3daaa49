import gzip
import json
import math

import pytest
from literal_runs import constant, lines_of, plan, record, spec, write, write_simple

from dgbench.collect import load
from dgbench.collect.columns import HEAD, absent
from dgbench.errors import UsageError


def test_a_torn_last_line_is_cut_and_told(tmp_path):
    folder = write(tmp_path, spec(), lines_of(0, 300), done=False)
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text[:-20])
    run, notes = load.load_run(folder)
    assert run.columns["step"].tolist() == [0]
    assert notes == [f"{run.name}: its last line is torn and was cut"]


def test_of_repeated_lines_the_last_is_kept(tmp_path):
    run = spec()
    lines = [record(run, 0, constant(run, 0.5, test)) for test in (0.1, 0.2)]
    loaded, notes = load.load_run(write(tmp_path, run, [*lines, *lines_of(0, weights="ema")]))
    assert loaded.columns.kinds == ("raw", "ema")
    assert loaded.columns["sketch/in/acc"].tolist() == [0.2, 0.5]
    assert notes == [f"{run.run_id()}: 1 repeated (step, weights), of which the last was kept"]


def test_a_plan_names_the_runs_that_are_not_there(tmp_path):
    runs = [spec(trial_seed=trial) for trial in range(4)]
    plan(tmp_path, runs)
    write_simple(tmp_path, runs[0], test=0.5)
    write(tmp_path, runs[1], [record(runs[1], 0, constant(runs[1], 0.5, 0.5))], done=False)
    (tmp_path / runs[2].run_id()).mkdir()
    (tmp_path / runs[2].run_id() / "error.txt").write_text("Traceback\nRuntimeError: out of memory\n")
    sweep = load.load(tmp_path)
    assert [run.name for run in sweep.runs] == [run.run_id() for run in runs]
    assert [run.reason for run in sweep.runs] == [
        "",
        "not finished: 1 of 3 evaluations",
        "failed: RuntimeError: out of memory",
        "not started",
    ]


def test_a_run_outside_the_plan_is_told(tmp_path):
    plan(tmp_path, [spec()])
    write_simple(tmp_path, spec(trial_seed=1), test=0.5)
    assert load.load(tmp_path).notes == [f"not in sweep.json, but counted: {spec(trial_seed=1).run_id()}"]


def test_the_folder_of_one_run_can_be_read(tmp_path):
    folder = write_simple(tmp_path, spec(), test=0.5)
    assert [run.name for run in load.load(folder).runs] == [spec().run_id()]


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_runs_is_one_line(tmp_path, name):
    with pytest.raises(UsageError, match="give the folder"):
        load.load(tmp_path / name)


def test_a_broken_plan_is_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text('{"specs": [')
    with pytest.raises(UsageError, match="no plan of a sweep"):
        load.load(tmp_path)


def domainbed_line(step=0, **args):
    flags = {"dataset": "Toy", "algorithm": "ERM", "test_envs": [1], "trial_seed": 0, "hparams_seed": 2}
    values = {f"env{i}_{part}_acc": i / 10 for i in range(3) for part in ("in", "out")}
    return {"args": {**flags, "hparams": '{"lr": 0.1}', **args}, "step": step, "hparams": {}, **values}


def test_domainbed_lines_become_records(tmp_path):
    folder = tmp_path / "0123abcd"
    folder.mkdir()
    (folder / "results.jsonl").write_text(json.dumps(domainbed_line()) + "\n")
    (folder / "done").touch()
    run = load.load(tmp_path).runs[0]
    assert (run.state, run.spec.test_envs, run.spec.hparams_seed) == ("done", ("env1",), 2)
    assert run.spec.hparams == {"lr": 0.1}
    assert run.columns.names == (*HEAD, *(f"env{i}/{part}/acc" for i in range(3) for part in ("in", "out")))
    assert run.columns.values[len(HEAD) :, 0].tolist() == [0, 0, 0.1, 0.1, 0.2, 0.2]
    assert run.columns.parts == {
        "validation": ["env0/out", "env2/out"],
        "test": ["env1/in"],
        "oracle": ["env1/out"],
    }


def test_domainbed_environments_have_the_names_of_our_data_set(tmp_path, monkeypatch):
    toy = type("Named", (), {"domains": ("art", "cartoon", "sketch")})
    monkeypatch.setattr("dgbench.registry.find", lambda folder, name: toy)
    (tmp_path / "results.jsonl").write_text(json.dumps(domainbed_line(dataset="Named")) + "\n")
    run, _ = load.load_run(tmp_path)
    assert run.spec.test_envs == ("cartoon",)
    assert run.columns.parts["validation"] == ["art/out", "sketch/out"]


def test_domainbed_tells_what_a_run_took(tmp_path):
    lines = [
        {**domainbed_line(step), "step_time": time, "mem_gb": 2.5, "loss": 1.0}
        for step, time in ((0, 3), (10, 2))
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run, _ = load.load_run(tmp_path)
    assert run.columns["seconds"].tolist() == [3, 20]
    assert run.columns["memory_gb"].tolist() == [2.5, 2.5]
    assert run.columns["loss/loss"].tolist() == [1, 1]


def test_nan_is_a_number_and_absence_is_not(tmp_path):
    first, second = lines_of(0, 300)
    first["metrics"]["art/out/acc"] = math.nan
    del second["metrics"]["cartoon/out/acc"]
    run, _ = load.load_run(write(tmp_path, spec(), [first, second]))
    assert absent(run.columns["art/out/acc"]).tolist() == [False, False]
    assert math.isnan(run.columns["art/out/acc"][0])
    assert absent(run.columns["cartoon/out/acc"]).tolist() == [False, True]


def test_records_that_name_other_parts_are_not_mixed(tmp_path):
    lines = lines_of(0, 300, 600)
    lines[0]["parts"]["validation"] = ["sketch/in"]
    run, notes = load.load_run(write(tmp_path, spec(), lines))
    assert run.columns["step"].tolist() == [300, 600]
    assert notes == [f"{run.name}: 1 records name other parts than the last and were skipped"]


def test_a_folder_without_spec_and_records_is_told(tmp_path):
    write_simple(tmp_path, spec(), test=0.5)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "results.jsonl").write_text('{"step": 0, "met')
    (tmp_path / "empty").mkdir()
    assert load.load(tmp_path).notes == [
        "lost: no spec.json and no record, so not counted",
        "lost: its last line is torn and was cut",
    ]


def test_rows_of_a_kind_of_weights_are_in_the_order_of_steps(tmp_path):
    run = spec()
    lines = [
        record(run, step, constant(run, 0.5, step / 1000), kind)
        for step, kind in ((300, "raw"), (300, "ema"), (0, "raw"), (0, "ema"))
    ]
    columns = load.load_run(write(tmp_path, run, lines))[0].columns
    assert columns["step"][columns.rows("ema")].tolist() == [0, 300]
    assert columns["sketch/in/acc"][columns.rows("raw")].tolist() == [0, 0.3]
    assert columns.rows("swad").tolist() == []


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ["sketch/in"]},
        {"parts": {"validation": []}},
        {"metrics": [0.5]},
        {"metrics": None},
        {"losses": [1.0]},
        {"seconds": 3.0},
        {"fingerprint": "abc"},
    ],
)
def test_a_line_of_another_kind_is_skipped_and_told(tmp_path, change):
    run = spec()
    good = record(run, 300, constant(run, 0.5, 0.5))
    write(tmp_path, run, [record(run, 0, constant(run, 0.1, 0.1)) | change, good])
    sweep = load.load(tmp_path)
    assert sweep.runs[0].columns["step"].tolist() == [300]
    assert any("1 lines without metrics or parts were skipped" in note for note in sweep.notes)


@pytest.mark.parametrize("text", ["{}", '{"dataset": "Toy", "algorithm": "ERM", "trial_seed": "x"}'])
def test_a_spec_of_another_kind_is_told(tmp_path, text):
    write_simple(tmp_path, spec(), 0.5)
    write_simple(tmp_path, spec("PCL"), 0.5)
    (tmp_path / spec("PCL").run_id() / "spec.json").write_text(text)
    sweep = load.load(tmp_path)
    assert [run.spec.algorithm for run in sweep.runs] == ["ERM"]
    assert any(note.startswith(f"{spec('PCL').run_id()}: TypeError") for note in sweep.notes)


@pytest.mark.parametrize("damage", ["cut", "no gzip", "no run"])
def test_a_damaged_archive_is_one_line(tmp_path, damage):
    line = json.dumps(record(spec(), 0, constant(spec(), 0.5, 0.5)) | {"run": "x"}).encode()
    content = gzip.compress(line if damage != "no run" else line.replace(b'"run"', b'"ran"'))
    (tmp_path / "records.jsonl.gz").write_bytes({"cut": content[:40], "no gzip": line}.get(damage, content))
    with pytest.raises(UsageError, match=r"records.jsonl.gz is damaged .*; get it again"):
        load.load(tmp_path)
