"""A finished sweep, kept: its records alone print its table."""

import re
import shutil
from pathlib import Path

import pytest
from literal_runs import constant, plan, record, spec, write

from dgbench import collect_results, publish, sweep
from dgbench.errors import UsageError

FLAGS = "--algorithms ERM --n_trials 1 --steps 2 --launcher serial --skip_model_save"


def launch(out: Path, *datasets: str) -> None:
    assert sweep.main(["launch", *FLAGS.split(), "--output_dir", str(out), "--datasets", *datasets]) == 0


def table(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert collect_results.main(["--input_dir", str(folder)]) == 0
    return capsys.readouterr().out


def test_what_is_published_prints_the_table_of_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tmp_path / "out", tmp_path / "results" / "two"
    launch(out, "RotatedDigits", "ColoredDigits")
    flags = ["--input_dir", str(out), "--output_dir", str(kept), "--command", "make two", "--note", "A note."]
    assert publish.main(flags) == 0
    told = (kept / "README.md").read_text()
    assert "`make two`" in told and "A note." in told
    assert "9 runs on ColoredDigits and RotatedDigits, 18 records" in told
    assert told.endswith((kept / "table.md").read_text())
    assert publish.main([*flags, "--selection", "last"]) == 0
    assert "results/two --selection last`" in (kept / "README.md").read_text()
    assert "selection: last checkpoint" in (kept / "table.md").read_text()
    assert publish.main([*flags, "--also", "oracle", "--selection oracle"]) == 0
    (also,) = (part for part in (kept / "README.md").read_text().split("`python")[1:] if "oracle`" in part)
    assert also.endswith((kept / "oracle.md").read_text()) and "oracle" in also.split("prints:")[1]
    (kept / "oracle.md").unlink()
    assert publish.main(flags) == 0
    before, files = table(out, capsys), {path.name: path.read_bytes() for path in kept.iterdir()}
    assert publish.main(flags) == 0
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == files
    shutil.rmtree(out)
    assert table(kept, capsys) == before


def test_a_sweep_that_is_not_done_is_not_published(tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    launch(out, "ColoredDigits")
    with pytest.raises(UsageError, match="unrecognized arguments: --tabel"):
        publish.main(["--input_dir", str(out), "--output_dir", str(kept), "--command", "x", "--tabel"])
    assert not list(kept.iterdir())
    kept.rmdir()
    next(out.glob("*/done")).unlink()
    with pytest.raises(UsageError, match="1 of 3 runs that are not done"):
        publish.main(["--input_dir", str(out), "--output_dir", str(kept), "--command", "x"])
    assert not kept.exists()
    with pytest.raises(UsageError, match="kept does not exist"):
        publish.main(["--input_dir", str(kept), "--output_dir", str(out), "--command", "x"])
    kept.mkdir()
    with pytest.raises(UsageError, match="kept holds no sweep"):
        publish.main(["--input_dir", str(kept), "--output_dir", str(out), "--command", "x"])


def test_a_sweep_is_not_published_into_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    launch(out, "ColoredDigits")
    before = sorted(out.iterdir())
    for itself in (out, out / ".." / "out"):
        with pytest.raises(UsageError, match="is the sweep itself; give another folder"):
            publish.main(["--input_dir", str(out), "--output_dir", str(itself), "--command", "x"])
    assert sorted(out.iterdir()) == before


KEPT = sorted(path.parent for path in (Path(__file__).parents[1] / "results").glob("*/records.jsonl.gz"))


@pytest.mark.skipif(not KEPT, reason="no results beside the tests")
@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_kept_tables_are_those_of_their_records(folder: Path, tmp_path: Path) -> None:
    told = (folder / "README.md").read_text()
    commands = re.findall(r"`python -m dgbench.collect_results --input_dir results/\S+?(| .+?)`", told)
    tables = [path.read_text() for path in sorted(folder.glob("*.md")) if path.name != "README.md"]
    printed = []
    for number, chosen in enumerate(commands):
        to = tmp_path / f"{number}.md"
        flags = ["--format", "markdown", "--output", str(to), *chosen.split()]
        assert collect_results.main(["--input_dir", str(folder), *flags]) == 0
        printed.append(to.read_text())
    assert sorted(printed) == sorted(tables) and all(table in told for table in tables)


def test_the_hours_are_those_of_the_records(tmp_path: Path) -> None:
    told = {"seconds": {"train": 1800.0, "evaluate": 90.0}, "code": "0.1.0"}
    kinds = ((300, "raw"), (600, "raw"), (600, "swad"))
    for trial in (0, 1):
        run = spec(trial_seed=trial)
        lines = [record(run, step, constant(run, 0.5, 0.5), kind) | told for step, kind in kinds]
        write(tmp_path / "out", run, lines)
    plan(tmp_path / "out", [spec(trial_seed=trial) for trial in (0, 1)])
    flags = ["--input_dir", str(tmp_path / "out"), "--output_dir", str(tmp_path / "kept"), "--command", "x"]
    assert publish.main(flags) == 0
    # of each run: training to two evaluations, which the averaged weights share, and three evaluations
    assert "6 records, 2.1 hours of training and evaluation" in (tmp_path / "kept" / "README.md").read_text()
