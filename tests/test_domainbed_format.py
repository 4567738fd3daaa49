import re

import pytest
from literal_runs import constant, record, spec, write, write_simple

from dgbench import collect_results
from dgbench.collect import domainbed_format
from dgbench.collect.load import load
from dgbench.errors import UsageError


def test_text_is_domainbeds_to_the_byte(domainbed_sweep, capsys):
    collect_results.main(["--input_dir", str(domainbed_sweep / "runs"), "--format", "domainbed"])
    assert capsys.readouterr().out == (domainbed_sweep / "expected.txt").read_text()


def test_latex_holds_the_same_cells(domainbed_sweep):
    text = (domainbed_sweep / "expected.txt").read_text()
    latex = domainbed_format.latex(load(domainbed_sweep / "runs").runs)
    cells = re.findall(r"\d+\.\d(?: \+/- \d\.\d)?", text)
    assert re.findall(r"\d+\.\d(?: \$\\pm\$ \d\.\d)?", latex) == [
        cell.replace("+/-", r"$\pm$") for cell in cells
    ]
    assert latex.startswith("\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{adjustbox}\n")
    assert latex.endswith("\\end{document}\n")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}}") == 6


def rows(text):
    return [line.split("  ") for line in text.splitlines() if line.startswith(("ERM", "PCL", "Zeta"))]


def test_a_literal_sweep(tmp_path):
    for algorithm in ("Zeta", "PCL", "ERM"):
        for target in ("art", "cartoon", "sketch"):
            write_simple(tmp_path, spec(algorithm, target), 0.5)
    text = domainbed_format.text(load(tmp_path).runs)
    lines = text.splitlines()
    assert lines[:3] == [
        "Total records: 9",
        "",
        "-------- Dataset: Toy, model selection method: training-domain validation set",
    ]
    assert (
        lines[3]
        == "  ".join(name.ljust(20) for name in ("Algorithm", "art", "cartoon", "sketch", "Avg")) + " "
    )
    assert lines[4] == "  ".join(v.ljust(20) for v in ("ERM", *["50.0 +/- 0.0"] * 3, "50.0")) + " "
    assert [row[0].strip() for row in rows(text)[:3]] == ["ERM", "PCL", "Zeta"]
    # without pairs of targets leave-one-domain-out has nothing to say
    left_out = text.split("leave-one-domain-out cross-validation\n")[1].splitlines()
    assert left_out[1].split() == ["ERM", "X", "X", "X", "X"]


def test_a_missing_target_is_an_x_and_its_average_too(tmp_path):
    for target in ("art", "cartoon"):
        write_simple(tmp_path, spec(target=target), 0.5)
    text = domainbed_format.text(load(tmp_path).runs)
    assert text.splitlines()[4].split()[-1] == "X"
    average = text.splitlines()[8].split("  ")  # over the targets that there are
    assert [cell.strip() for cell in average if cell.strip()] == ["ERM", "50.0 +/- 0.0", "50.0"]


def test_runs_that_are_not_done_count_and_are_told(tmp_path, capsys):
    run = spec()
    write(tmp_path, run, [record(run, 0, constant(run, 0.5, 0.4))], done=False)
    collect_results.main(["--input_dir", str(tmp_path), "--format", "domainbed"])
    captured = capsys.readouterr()
    assert "40.0 +/- 0.0" in captured.out
    assert captured.err == f"counted as DomainBed does, though not done: {run.run_id()}\n"


def test_columns_are_cut_at_their_width(tmp_path):
    write_simple(tmp_path, spec("A_very_long_name_of_a_method"), 0.5)
    text = domainbed_format.text(load(tmp_path).runs)
    assert "A_very_long_name_of_  X " in text
    assert "A_very_long_name_of_a_met  " in text


def test_runs_that_domainbed_would_mix_are_refused(tmp_path):
    write_simple(tmp_path, spec(), 0.5)
    write_simple(tmp_path, spec(steps=301), 0.9)
    with pytest.raises(UsageError, match="mix runs of ERM on Toy that differ in steps"):
        domainbed_format.text(load(tmp_path).runs)


def test_retrieval_holds_no_domain_out(tmp_path):
    run = spec("ID", ("art", "sketch"), task="retrieval")
    line = record(run, 600, {}) | {"metrics": {"art>sketch/P@1": 0.5, "sketch>art/P@1": 0.5}}
    line["parts"] = {"validation": [], "test": ["art>sketch", "sketch>art"], "oracle": []}
    write(tmp_path, run, [line])
    with pytest.raises(UsageError, match="no run here has a target domain"):
        domainbed_format.text(load(tmp_path).runs)


def test_averaged_weights_are_methods_of_their_own(tmp_path):
    run = spec(averaging=("swad",))
    write(
        tmp_path,
        run,
        [record(run, 600, constant(run, 0.5, 0.5)), record(run, 600, constant(run, 0.5, 0.7), "swad")],
    )
    text = domainbed_format.text(load(tmp_path).runs)
    assert [row[0].strip() for row in rows(text)[:2]] == ["ERM", "ERM + SWAD"]
