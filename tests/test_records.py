import fcntl
import json
from functools import partial

import pytest
from literal_runs import lines_of

from dgbench import files, records, train
from dgbench.errors import exit_on_usage_error


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_append_adds_whole_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    for line in lines_of(0, 300):
        records.append(path, line, sync=True)
    assert records.read_lines(path) == (lines_of(0, 300), [])


def test_a_record_that_the_disk_takes_in_part_is_an_error(tmp_path, disk_takes):
    path = tmp_path / "results.jsonl"
    (line,) = lines_of(0)
    records.append(path, line)
    disk_takes(path.stat().st_size + 20)
    with pytest.raises(OSError, match="only a part of a record"):
        records.append(path, line)
    assert records.read_lines(path) == ([line], ["its last line is torn and was cut"])


def test_a_full_disk_is_one_line_of_the_command(tmp_path, disk_takes, capsys):
    """Whether it takes a part of a record or nothing: not a traceback, which names no file."""
    flags = "--dataset RotatedDigits --algorithm ERM --test_envs 0 --steps 1 --output_dir"
    for size, file in ((1000, "results.jsonl"), (0, "lease.json")):
        disk_takes(size)
        with pytest.raises(SystemExit) as ended:
            exit_on_usage_error(partial(train.main, [*flags.split(), str(tmp_path / str(size))]))
        told = capsys.readouterr().err
        assert ended.value.code == 2 and f"{file}: " in told and told.count("\n") == 1


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
        assert not files.is_locked(tmp_path / "lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert files.is_locked(tmp_path / "lock")
        assert records.state(tmp_path) == "running"
    assert records.state(tmp_path) == "waiting"
    (tmp_path / "error.txt").write_text("Traceback\nValueError: no\n\n")
    assert records.state(tmp_path) == "failed"
    (tmp_path / "done").touch()
    assert records.state(tmp_path) == "done"
