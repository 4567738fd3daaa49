import pytest
from literal_runs import constant, record, spec, write, write_simple

from dgbench import collect_results
from dgbench.collect import comparison, tables, top
from dgbench.collect.load import load
from dgbench.collect.rules import RULES
from dgbench.errors import UsageError

TARGETS = ("art", "cartoon", "sketch")


def build(folder):
    return tables.build(load(folder), RULES["training_domain_validation"])


def write_method(folder, algorithm, accuracies, **fields):
    """accuracies: {(target, trial): test accuracy}."""
    for (target, trial), test in accuracies.items():
        write_simple(folder, spec(algorithm, target, trial_seed=trial, **fields), test)


def grid(shift=0.0):
    return {
        (target, trial): 0.5 + shift + 0.1 * i + 0.01 * trial
        for i, target in enumerate(TARGETS)
        for trial in (0, 1)
    }


def test_paired_comparison_is_over_trial_and_target(tmp_path):
    write_method(tmp_path, "ERM", grid())
    write_method(tmp_path, "PCL", grid(0.02))
    (table,) = build(tmp_path)
    comparison.add_baseline([table])
    erm, pcl = table.rows
    assert erm.extra == {}
    assert comparison.differences(pcl, erm) == pytest.approx([2.0] * 6)
    # six equal differences: two of 2^6 sign flips are as far from zero
    assert pcl.extra == {"vs ERM": "+2.0 [2.0, 2.0]", "p": "0.031"}
    assert "the 6 pairs of equal (trial, target)" in table.caption[-1]
    assert "Holm-corrected for 1 rows" in table.caption[-1]


def test_a_baseline_alone_is_compared_with_nothing(tmp_path):
    write_method(tmp_path, "ERM", grid())
    (table,) = build(tmp_path)
    comparison.add_baseline([table])
    assert "no row to compare with ERM" in table.notes and "vs ERM" not in table.caption[-1]


def test_another_table_of_a_data_set_is_no_other_data_set(tmp_path):
    for name in ("one", "two"):
        write_method(tmp_path / name, "ERM", grid())
        write_method(tmp_path / name, "PCL", grid(0.02))
    assert comparison.ranks([*build(tmp_path / "one"), *build(tmp_path / "two")]) == []


def test_two_runs_of_one_place_are_told_and_not_averaged(tmp_path):
    write_method(tmp_path, "ERM", grid())
    again = spec("ERM", "art", trial_seed=0)
    write_simple(tmp_path / "kept", again, 0.9)
    (tmp_path / "kept" / again.run_id()).rename(tmp_path / "a-copy")
    (table,) = build(tmp_path)
    (row,) = table.rows
    assert "(1/2)" in str(row.cells[0]) and not row.cells[0].whole
    assert any("more than one run of its trial and draw" in note for note in table.notes)


def test_pairs_of_incomplete_cells_do_not_count(tmp_path):
    write_method(tmp_path, "ERM", grid())
    accuracies = grid(0.02)
    del accuracies["sketch", 1]
    write_method(tmp_path, "PCL", accuracies)
    (table,) = build(tmp_path)
    comparison.add_baseline([table])
    assert "the 4 pairs" in table.caption[-1]


def test_rows_without_pairs_are_in_no_test(tmp_path):
    write_method(tmp_path, "ERM", grid())
    write_method(tmp_path, "PCL", grid(0.02))
    write_method(tmp_path, "IRM", {("art", 0): 0.5})
    (table,) = build(tmp_path)
    comparison.add_baseline([table])
    assert [row.extra.get("p") for row in table.rows] == [None, "-", "0.031"]
    assert "Holm-corrected for 1 rows" in table.caption[-1]
    (table,) = build(tmp_path)
    comparison.add_baseline([table], "IRM")
    assert table.caption[-1] == (
        "vs IRM: mean difference in points over the 0 pairs of equal (trial, target)."
    )


def test_a_baseline_that_is_not_there_is_one_line(tmp_path):
    write_method(tmp_path, "PCL", grid())
    with pytest.raises(UsageError, match="no row 'ERM' to compare with; choose from: PCL"):
        comparison.add_baseline(build(tmp_path))


def test_cost_sums_hours_and_takes_the_peak_memory(tmp_path):
    for trial, (train, memory) in enumerate(((3600.0, 2.0), (1800.0, 3.5))):
        run = spec(averaging=("swad",), trial_seed=trial)
        more = {"seconds": {"train": train, "evaluate": 360.0}, "memory_gb": memory}
        lines = [record(run, 600, constant(run, 0.5, 0.5), kind) | more for kind in ("raw", "swad")]
        write(tmp_path, run, lines)
    (table,) = build(tmp_path)
    comparison.add_cost([table])
    # training is counted once, the evaluation of each kind of weights is
    assert [row.extra for row in table.rows] == [{"Hours": "1.90", "GB": "3.5"}] * 2


def test_cost_that_was_not_recorded_is_a_dash(tmp_path):
    write_method(tmp_path, "ERM", grid())
    (table,) = build(tmp_path)
    comparison.add_cost([table])
    assert table.rows[0].extra == {"Hours": "-", "GB": "-"}


def test_the_same_run_in_two_folders_costs_twice(tmp_path):
    for folder in ("a", "b"):
        lines = [
            record(spec(), 600, constant(spec(), 0.5, 0.5)) | {"seconds": {"train": 1800.0, "evaluate": 0.0}}
        ]
        write(tmp_path / folder, spec(), lines)
    runs = [run for folder in ("a", "b") for run in load(tmp_path / folder).runs]
    assert comparison.cost(runs)[0] == 1.0 and comparison.cost([*runs, *runs])[0] == 1.0


def test_trials_per_cell(tmp_path):
    write_method(tmp_path, "ERM", grid())
    accuracies = grid()
    del accuracies["sketch", 1]
    write_method(tmp_path, "PCL", accuracies)
    (table,) = build(tmp_path)
    comparison.add_trials([table])
    assert [row.extra["n"] for row in table.rows] == ["2", "1-2"]


def test_ranks_over_data_sets(tmp_path):
    for dataset, (erm, pcl, coral) in {"Toy": (0.1, 0.2, 0.0), "Other": (0.2, 0.1, 0.0)}.items():
        for algorithm, shift in (("ERM", erm), ("PCL", pcl), ("CORAL", coral)):
            for (target, trial), test in grid(shift).items():
                run = spec(algorithm, target, trial_seed=trial)
                write_simple(tmp_path, type(run)(**{**vars(run), "dataset": dataset}), test)
    built = build(tmp_path)
    (table,) = comparison.ranks(built)
    assert [(row.label, str(row.cells[0])) for row in table.rows] == [
        ("ERM", "1.50"),
        ("PCL", "1.50"),
        ("CORAL", "3.00"),
    ]
    assert "Nemenyi critical difference at 0.05: 2.34; not told apart: ERM to CORAL" in " ".join(
        table.caption
    )
    assert comparison.ranks(built[:1]) == []


def test_top_lists_draws_by_validation_alone(tmp_path, capsys):
    for draw, (validation, test) in enumerate(((0.7, 0.1), (0.9, 0.2), (0.8, 0.9))):
        run = spec(hparams_seed=draw)
        lines = [record(run, step, constant(run, validation - step / 1e4, test)) for step in (0, 300)]
        write(tmp_path, run, [line | {"hparams": {"lr": draw / 10}} for line in lines])
    assert collect_results.main(["--input_dir", str(tmp_path), "--top", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2] == "-------- Toy, ERM (raw), sketch, trial 0"
    assert printed[3] == "  1. validation 0.9000  test 0.2000  step 0  draw 1"
    assert printed[4] == "     lr=0.1"
    assert printed[6] == "  2. validation 0.8000  test 0.9000  step 0  draw 2"
    assert printed[7:] == ["     lr=0.2", f"     {spec(hparams_seed=2).run_id()}"]


def test_top_wants_a_number(tmp_path):
    write_simple(tmp_path, spec(), 0.5)
    with pytest.raises(UsageError, match="--top 0 must be at least 1"):
        collect_results.main(["--input_dir", str(tmp_path), "--top", "0"])


def test_top_where_nothing_can_be_chosen(tmp_path):
    write_simple(tmp_path, spec(), 0.5, validation=float("nan"))
    text = top.text(load(tmp_path).runs, RULES["training_domain_validation"], 3)
    assert "nothing could be chosen" in text


@pytest.mark.parametrize("form", collect_results.FORMATS)
def test_every_format_prints_what_stands_beside(tmp_path, capsys, form):
    write_method(tmp_path, "ERM", grid())
    write_method(tmp_path, "PCL", grid(0.02))
    flags = [
        "--cost",
        "--trials",
        "--compare",
        "--ranks",
        "--oracle",
        "--spread",
        "sample",
        "--draws",
        "shared",
    ]
    assert collect_results.main(["--input_dir", str(tmp_path), "--format", form, *flags]) == 0
    out = capsys.readouterr().out
    assert "vs ERM" in out
    assert "+2.0 [2.0, 2.0]" in out
    assert "oracle" in out


def test_the_spread_is_told(tmp_path, capsys):
    write_method(tmp_path, "ERM", grid())
    collect_results.main(["--input_dir", str(tmp_path), "--spread", "sample"])
    out = " ".join(capsys.readouterr().out.split())
    assert "divisor n - 1" in out
    assert "50.5 +/- 0.5" in out  # 0.005 * sqrt(2) / sqrt(2); with divisor n 0.4
