import pytest

from dgbench import paper_table, registry
from dgbench.errors import UsageError

SWEEP = '''"""A small table: ERM on rotated digits, two targets."""

from dgbench.sweep import grid

TABLE = ("--selection", "last")


def runs(data_dir):
    return grid(["ERM"], ["RotatedDigits"], n_trials=1, envs=["0", "75"], steps=2, checkpoint_freq=1)
'''


@pytest.fixture
def table(tmp_path):
    (tmp_path / "small.py").write_text(SWEEP)
    return [str(tmp_path / "small.py"), "--output_dir", str(tmp_path / "runs"), "--launcher", "serial"]


def test_a_table_from_nothing_and_again(table, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    table[2] = "~/runs"
    assert paper_table.main([*table, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A small table: ERM on rotated digits, two targets.\n\nwaiting")
    assert "2 runs, 2 to do: about" in out
    assert "-------- Dataset: RotatedDigits" in out
    assert "selection: last checkpoint" in out
    assert "Hours" in out
    assert "To go on" not in out
    assert paper_table.main([*table, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "2 runs, 0 to do" in out
    assert "runs in" not in out  # nothing was launched


def test_a_dry_run_launches_nothing_and_tells_how_to_go_on(table, tmp_path, capsys):
    assert paper_table.main([*table, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "0 of 2 runs are done. To go on, run this without --dry_run" in out
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_one_line_before_any_run(tmp_path, capsys):
    flags = ["pcl_pacs", "--output_dir", str(tmp_path / "runs"), "--launcher", "serial"]
    with pytest.raises(UsageError, match=r"PACS needs --data_dir.*DATA=FOLDER"):
        paper_table.main(flags)
    assert not (tmp_path / "runs").exists()
    assert "PCL (Yao et al., CVPR 2022), PACS table" in capsys.readouterr().out


def test_an_unknown_table_names_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="did you mean pcl_pacs"):
        paper_table.main(["pcl_pcas", "--output_dir", str(tmp_path)])


def test_every_table_names_data_sets_that_exist():
    from dgbench import sweep

    for name in sweep.names():
        assert paper_table.about(name)
        for spec in sweep.load_file(name):
            assert registry.canonical("datasets", spec.dataset) == spec.dataset
