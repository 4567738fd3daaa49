import fcntl
import json

import pytest
from literal_runs import constant, plan, record, spec, write, write_simple

from dgbench import records
from dgbench.errors import UsageError


def lines_of(*steps, weights="raw"):
    run = spec()
    return [record(run, step, constant(run, 0.5, 0.5), weights) for step in steps]


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_append_adds_whole_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    for line in lines_of(0, 300):
        records.append(path, line, sync=True)
    assert records.read_lines(path) == (lines_of(0, 300), [])


def test_a_torn_last_line_is_cut_and_told(tmp_path):
    folder = write(tmp_path, spec(), lines_of(0, 300), done=False)
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text[:-20])
    run, notes = records.load_run(folder)
    assert [r["step"] for r in run.records] == [0]
    assert notes == [f"{run.name}: its last line is torn and was cut"]


@pytest.mark.parametrize("length", [1, 50, -1])
def test_every_torn_length_is_survived(tmp_path, length):
    path = tmp_path / "results.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in lines_of(0))
    path.write_text(text + text[:length])
    found, _ = records.read_lines(path)
    # without its newline alone, the line still says all it has to say
    assert len(found) == (2 if length == -1 else 1)


def test_a_torn_line_in_the_middle_is_told(tmp_path):
    path = tmp_path / "results.jsonl"
    first, second = [json.dumps(line) for line in lines_of(0, 300)]
    path.write_text(f"{first[:30]}{first}\n{second}\n")
    found, problems = records.read_lines(path)
    assert [r["step"] for r in found] == [300]
    assert problems == ["line 1 is no record and was skipped"]


def test_of_repeated_lines_the_last_is_kept(tmp_path):
    run = spec()
    lines = [record(run, 0, constant(run, 0.5, test)) for test in (0.1, 0.2)]
    loaded, notes = records.load_run(write(tmp_path, run, [*lines, *lines_of(0, weights="ema")]))
    assert [r["weights"] for r in loaded.records] == ["raw", "ema"]
    assert loaded.records[0]["metrics"]["sketch/in/acc"] == 0.2
    assert notes == [f"{run.run_id()}: 1 repeated (step, weights), of which the last was kept"]


def test_records_keep_what_is_asked_for(tmp_path):
    folder = write(tmp_path, spec(), lines_of(0))
    assert set(records.load_run(folder)[0].records[0]) == set(records.FIELDS)
    assert "losses" in records.load_run(folder, keep=("step", "losses"))[0].records[0]


def test_truncate_keeps_whole_lines_before_a_step(tmp_path):
    path = tmp_path / "results.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in lines_of(0, 300, 600))
    path.write_text(text + text[:40])
    assert records.truncate(path, before_step=600) == 2
    assert steps_of(path) == [0, 300]
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


def test_truncate_ends_a_whole_line_without_newline(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(lines_of(0)[0]))
    assert records.truncate(path, before_step=300) == 0
    records.append(path, lines_of(300)[0])
    assert steps_of(path) == [0, 300]


def test_truncate_of_no_file_is_nothing(tmp_path):
    assert records.truncate(tmp_path / "results.jsonl", before_step=1) == 0


def test_states(tmp_path):
    assert records.state(tmp_path) == "waiting"
    with open(tmp_path / "lock", "w") as lock:
        assert not records.is_locked(tmp_path / "lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert records.is_locked(tmp_path / "lock")
        assert records.state(tmp_path) == "running"
    assert records.state(tmp_path) == "waiting"
    (tmp_path / "error.txt").write_text("Traceback\nValueError: no\n\n")
    assert records.state(tmp_path) == "failed"
    (tmp_path / "done").touch()
    assert records.state(tmp_path) == "done"


def test_a_plan_names_the_runs_that_are_not_there(tmp_path):
    runs = [spec(trial_seed=trial) for trial in range(4)]
    plan(tmp_path, runs)
    write_simple(tmp_path, runs[0], test=0.5)
    write(tmp_path, runs[1], [record(runs[1], 0, constant(runs[1], 0.5, 0.5))], done=False)
    (tmp_path / runs[2].run_id()).mkdir()
    (tmp_path / runs[2].run_id() / "error.txt").write_text("Traceback\nRuntimeError: out of memory\n")
    sweep = records.load(tmp_path)
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
    assert records.load(tmp_path).notes == [f"not in sweep.json, but counted: {spec(trial_seed=1).run_id()}"]


def test_the_folder_of_one_run_can_be_read(tmp_path):
    folder = write_simple(tmp_path, spec(), test=0.5)
    assert [run.name for run in records.load(folder).runs] == [spec().run_id()]


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_runs_is_one_line(tmp_path, name):
    with pytest.raises(UsageError, match="give the folder"):
        records.load(tmp_path / name)


def test_a_broken_plan_is_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text('{"specs": [')
    with pytest.raises(UsageError, match="no plan of a sweep"):
        records.load(tmp_path)


def domainbed_line(step=0, **args):
    flags = {"dataset": "Toy", "algorithm": "ERM", "test_envs": [1], "trial_seed": 0, "hparams_seed": 2}
    values = {f"env{i}_{part}_acc": i / 10 for i in range(3) for part in ("in", "out")}
    return {"args": {**flags, "hparams": '{"lr": 0.1}', **args}, "step": step, "hparams": {}, **values}


def test_domainbed_lines_become_records(tmp_path):
    folder = tmp_path / "0123abcd"
    folder.mkdir()
    (folder / "results.jsonl").write_text(json.dumps(domainbed_line()) + "\n")
    (folder / "done").touch()
    assert records.detect_format(tmp_path) == "domainbed"
    run = records.load(tmp_path).runs[0]
    assert (run.state, run.spec.test_envs, run.spec.hparams_seed) == ("done", ("env1",), 2)
    assert run.spec.hparams == {"lr": 0.1}
    assert run.records == [
        {
            "step": 0,
            "weights": "raw",
            "metrics": {f"env{i}/{part}/acc": i / 10 for i in range(3) for part in ("in", "out")},
            "parts": {"validation": ["env0/out", "env2/out"], "test": ["env1/in"], "oracle": ["env1/out"]},
        }
    ]


def test_domainbed_environments_have_the_names_of_our_data_set(tmp_path, monkeypatch):
    toy = type("Named", (), {"domains": ("art", "cartoon", "sketch")})
    monkeypatch.setattr("dgbench.registry.find", lambda folder, name: toy)
    (tmp_path / "results.jsonl").write_text(json.dumps(domainbed_line(dataset="Named")) + "\n")
    run, _ = records.load_run(tmp_path)
    assert run.spec.test_envs == ("cartoon",)
    assert run.records[0]["parts"]["validation"] == ["art/out", "sketch/out"]


def test_detect_format(tmp_path):
    assert records.detect_format(tmp_path) is None
    write_simple(tmp_path, spec(), test=0.5)
    assert records.detect_format(tmp_path) == "dgbench"
