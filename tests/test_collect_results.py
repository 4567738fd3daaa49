import subprocess
import sys

import pytest
from literal_runs import spec, write_simple

from dgbench import collect_results
from dgbench.errors import UsageError


@pytest.fixture
def sweep(tmp_path):
    for target in ("art", "cartoon", "sketch"):
        write_simple(tmp_path / "runs", spec(target=target), 0.5)
    return tmp_path / "runs"


def test_prints_a_table(sweep, capsys):
    assert collect_results.main(["--input_dir", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Total records: 3, of 3 runs: 3 done\n\n-------- Dataset: Toy")
    assert "50.0" in out


def test_a_note_of_both_rules_is_told_once(sweep, capsys):
    assert collect_results.main(["--input_dir", str(sweep), "--oracle", "--ranks"]) == 0
    assert capsys.readouterr().out.count("--ranks needs two data sets") == 1


@pytest.mark.parametrize("form", collect_results.FORMATS)
def test_every_format(sweep, capsys, form):
    assert collect_results.main(["--input_dir", str(sweep), "--format", form]) == 0
    assert "50.0" in capsys.readouterr().out


def test_latex_is_a_flag_of_old_commands(sweep, capsys):
    collect_results.main(["--input_dir", str(sweep), "--latex"])
    captured = capsys.readouterr()
    assert r"\toprule" in captured.out
    assert "Total records" not in captured.out
    assert "Total records" in captured.err


def test_a_folder_may_begin_at_home(sweep, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(sweep.parent))
    assert collect_results.main(["--input_dir", "~/runs"]) == 0
    assert "50.0" in capsys.readouterr().out


def test_output_is_a_file(sweep, tmp_path, capsys):
    collect_results.main(["--input_dir", str(sweep), "--output", str(tmp_path / "table.txt")])
    assert "50.0" in (tmp_path / "table.txt").read_text()
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--selection", "orcale"], "did you mean oracle"),
        (["--format", "html"], "choose from: text, markdown"),
        (["--output", "/no/such/folder/x"], "cannot write"),
        (["--published", "--what"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line(sweep, flags, message):
    with pytest.raises(UsageError, match=message):
        collect_results.main(["--input_dir", str(sweep), *flags])


def test_missing_runs_do_not_fail_the_command(sweep, capsys):
    (next(sweep.iterdir()) / "done").unlink()
    assert collect_results.main(["--input_dir", str(sweep)]) == 0
    assert "not finished: 1 of 3 evaluations" in capsys.readouterr().out


def python(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60)


def test_an_empty_folder_is_one_line_and_status_2(tmp_path):
    done = python("-m", "dgbench.collect_results", "--input_dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: no runs in")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from dgbench import collect_results\n"
        "try: collect_results.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert "--selection" in done.stdout
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_a_table_imports_no_torch(sweep):
    code = (
        "import sys; from dgbench import collect_results\n"
        f"collect_results.main(['--input_dir', {str(sweep)!r}]); print('torch' in sys.modules)"
    )
    assert python("-c", code).stdout.endswith("False\n")


def test_the_command_reads_a_domainbed_sweep(domainbed_sweep, capsys):
    assert collect_results.main(["--input_dir", str(domainbed_sweep / "runs"), "--published"]) == 0
    assert "98.0 +/- 0.2" in capsys.readouterr().out
