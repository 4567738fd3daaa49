"""A finished sweep, kept: its records alone print its table."""

import shutil
from pathlib import Path

import pytest

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
