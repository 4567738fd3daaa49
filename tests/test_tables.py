import csv
import io
import math
import re

import pytest
from literal_runs import constant, plan, record, spec, write, write_simple

from dgbench.collect import formats, tables
from dgbench.collect.load import load
from dgbench.collect.rows import natural
from dgbench.collect.rules import RULES, early_stopping
from dgbench.errors import UsageError

TARGETS = ("art", "cartoon", "sketch")


def build(folder, rule="training_domain_validation"):
    return tables.build(load(folder), RULES[rule])


def printed(table):
    """{row label: [cells and average as text]}"""
    return {row.label: [*map(str, row.cells), str(row.average)] for row in table.rows}


def grid(**fields):
    return [spec(target=target, trial_seed=trial, **fields) for target in TARGETS for trial in (0, 1)]


def write_grid(folder, test=0.5, **fields):
    """Two trials of every target; trial 1 is 0.1 better, each target 0.1 better than the one before."""
    for i, run in enumerate(grid(**fields)):
        write_simple(folder, run, test + 0.1 * (i // 2) + 0.1 * run.trial_seed)


def test_a_whole_table(tmp_path):
    write_grid(tmp_path)
    (table,) = build(tmp_path)
    assert table.columns == ["art", "cartoon", "sketch"]
    # mean and std(ddof=0) / sqrt(2) of 0.5, 0.6: 0.55 and 0.05 / 1.414
    assert printed(table) == {"ERM": ["55.0 +/- 3.5", "65.0 +/- 3.5", "75.0 +/- 3.5", "65.0"]}
    assert table.notes == []
    assert table.heading == (
        "Dataset: Toy, task: domain_generalization, selection: training-domain validation set"
    )
    caption = " ".join(table.caption)
    for told in (
        '"in" part of the target',
        "validation parts of the source",
        "2 trials (seeds 0, 1)",
        "divisor n",
    ):
        assert told in caption
    assert "601 updates, evaluated every 300, backbone small, pretrained weights none" in caption


def test_one_trial_has_no_error(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path, spec(target=target), 0.5)
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["50.0", "50.0", "50.0", "50.0"]}
    assert "One trial (seed 0)." in table.caption


def test_a_missing_trial_is_counted_and_not_averaged(tmp_path):
    write_grid(tmp_path)
    for run in grid(algorithm="PCL")[:-1]:
        write_simple(tmp_path, run, 0.5)
    (table,) = build(tmp_path)
    assert printed(table)["PCL"] == ["50.0 +/- 0.0", "50.0 +/- 0.0", "50.0 (1/2)", "-"]
    assert table.notes == ["no run found: PCL, sketch, trial 1, draw 0"]
    assert any("(2/3)" in sentence for sentence in table.caption)


def test_a_missing_domain_is_no_average(tmp_path):
    write_simple(tmp_path, spec(target="sketch"), 0.5)
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["- (0/1)", "- (0/1)", "50.0", "-"]}


def test_planned_runs_that_are_missing_are_told_with_their_reason(tmp_path):
    runs = grid()
    plan(tmp_path, runs)
    for run in runs[:3]:
        write_simple(tmp_path, run, 0.5)
    write(tmp_path, runs[3], [record(runs[3], 0, constant(runs[3], 0.5, 0.5))], done=False)
    folder = write(tmp_path, runs[4], [], done=False)
    (folder / "error.txt").write_text("Traceback\nRuntimeError: out of memory\n")
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["50.0 +/- 0.0", "50.0 (1/2)", "- (0/2)", "-"]}
    assert table.notes == [
        f"not finished: 1 of 3 evaluations: {runs[3].run_id()}",
        f"failed: RuntimeError: out of memory: {runs[4].run_id()}",
        f"not started: {runs[5].run_id()}",
    ]


def test_a_plan_of_some_targets_is_a_table_of_these(tmp_path):
    planned = [spec(target=target) for target in ("art", "sketch")]
    for run, test in zip(planned, (0.4, 0.5), strict=True):
        write_simple(tmp_path, run, test)
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["40.0", "- (0/1)", "50.0", "-"]}
    plan(tmp_path, planned)
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["40.0", "50.0", "45.0"]} and table.columns == ["art", "sketch"]


def test_a_missing_draw_makes_a_cell_incomplete(tmp_path):
    runs = [spec(hparams_seed=draw) for draw in range(3)]
    plan(tmp_path, runs)
    for run in runs[:2]:
        write_simple(tmp_path, run, 0.5)
    (table,) = build(tmp_path)
    assert printed(table)["ERM"][0] == "50.0 (2/3)"


def test_each_weights_is_a_row(tmp_path):
    for target in TARGETS:
        run = spec("PCL", target, averaging=("ema", "swad"))
        lines = [
            record(run, 600, constant(run, 0.5, test), weights)
            for weights, test in (("swad", 0.7), ("raw", 0.5), ("ema", 0.6))
        ]
        write(tmp_path, run, lines if target != "art" else lines[1:])
    (table,) = build(tmp_path)
    assert printed(table) == {
        "PCL": ["50.0", "50.0", "50.0", "50.0"],
        "PCL + EMA": ["60.0", "60.0", "60.0", "60.0"],
        "PCL + SWAD": ["- (0/1)", "70.0", "70.0", "-"],
    }
    name = spec("PCL", "art", averaging=("ema", "swad")).run_id()
    assert table.notes == [f"done, but without swad weights: {name}"]


def test_two_backbones_are_two_tables(tmp_path):
    write_grid(tmp_path)
    write_grid(tmp_path, test=0.1, backbone="large")
    large, small = build(tmp_path)
    assert (large.variant, small.variant) == ("backbone: large", "backbone: small")
    assert large.heading.endswith(", backbone: large")
    assert (printed(large)["ERM"][3], printed(small)["ERM"][3]) == ("25.0", "65.0")


def test_chosen_hyperparameters_are_rows(tmp_path):
    write_grid(tmp_path)
    write_grid(tmp_path, test=0.1, hparams={"lr": 0.1})
    write_grid(tmp_path, test=0.2, averaging=("ema",), hparams={"lr": 0.1})
    (table,) = build(tmp_path)
    assert [row.label for row in table.rows] == [
        "ERM (averaging=none)",
        "ERM (lr=0.1, averaging=ema)",
        "ERM (lr=0.1, averaging=ema) + EMA",
        "ERM (lr=0.1, averaging=none)",
    ]


def test_nan_is_shown_and_told(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path, spec(target=target), math.nan if target == "art" else 0.5)
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["nan", "50.0", "50.0", "nan"]}
    name = spec(target="art").run_id()
    assert table.notes == [f"NaN accuracy: ERM, art, trial 0 ({name}, step 600)"]


def test_two_fingerprints_of_a_domain_are_refused(tmp_path):
    for trial, content in ((0, "abc"), (1, "def")):
        fingerprint = {"art": {"images": 3, "hash": "same"}, "sketch": {"images": 3, "hash": content}}
        write_simple(tmp_path, spec(trial_seed=trial), 0.5, fingerprint=fingerprint)
    with pytest.raises(UsageError) as error:
        build(tmp_path)
    names = [spec(trial_seed=trial).run_id() for trial in (0, 1)]
    assert all(name in str(error.value) for name in ("sketch", *names))
    assert "art" not in str(error.value)


def test_trials_with_other_source_domains_are_not_averaged(tmp_path):
    """Of images on disk: a domain was added between the trials."""
    for trial, sources in ((0, ("art", "cartoon")), (1, ("art", "cartoon", "photo"))):
        run = spec(trial_seed=trial)
        line = record(run, 600, {**constant(run, 0.5, 0.5), "photo/out": 0.5})
        line["parts"]["validation"] = [f"{name}/out" for name in sources]
        write(tmp_path, run, [line])
    with pytest.raises(
        UsageError, match=r"the source domains differ, so these are not averaged: .*-t0.* and "
    ):
        build(tmp_path)


def test_the_content_of_a_run_that_is_not_done_stops_no_table(tmp_path):
    for trial, content in ((0, "abc"), (1, "def")):
        fingerprint = {"sketch": {"images": 3, "hash": content}}
        run = spec(trial_seed=trial)
        lines = [record(run, 600, constant(run, 0.5, 0.5), fingerprint=fingerprint)]
        write(tmp_path, run, lines, done=trial == 0)
    assert printed(build(tmp_path)[0])["ERM"][2] == "50.0 (1/2)"


def test_records_of_two_code_versions_are_told(tmp_path):
    for trial, code in ((0, "0.1.0+abc"), (1, "0.1.0+def")):
        run = spec(trial_seed=trial)
        line = record(run, 600, constant(run, 0.5, 0.5)) | {"code": code}
        write(tmp_path, run, [line])
    (table,) = build(tmp_path)
    assert printed(table)["ERM"][2] == "50.0 +/- 0.0"
    assert table.notes[-1] == "records of 2 code versions: 0.1.0+abc (1 runs), 0.1.0+def (1 runs)"


def test_a_run_resumed_by_other_code_is_told(tmp_path):
    run = spec()
    lines = [record(run, step, constant(run, 0.5, 0.5)) | {"code": str(step)} for step in (0, 300)]
    write(tmp_path, run, lines)
    (table,) = build(tmp_path)
    assert table.notes[-1] == "records of 2 code versions: 0 (1 runs), 300 (1 runs)"


def test_no_trial_at_all(tmp_path):
    plan(tmp_path, grid())
    (table,) = build(tmp_path)
    assert printed(table) == {"ERM": ["- (0/2)", "- (0/2)", "- (0/2)", "-"]}
    assert len(table.notes) == 1
    assert table.notes[0].startswith("not started: ")


def test_a_threshold_that_no_trial_reaches_is_told(tmp_path):
    write_grid(tmp_path)
    (table,) = tables.build(load(tmp_path), early_stopping(0.95))
    assert printed(table)["ERM"] == ["nan", "nan", "nan", "nan"]
    assert "no checkpoint could be chosen: ERM, art, trial 0" in table.notes


def test_the_sample_spread_is_computed_and_told(tmp_path):
    write_grid(tmp_path)
    (table,) = tables.build(load(tmp_path), RULES["last"], spread="sample")
    # std(ddof=1) / sqrt(2) of 0.5, 0.6 is 0.05
    assert printed(table)["ERM"][0] == "55.0 +/- 5.0"
    assert "(divisor n - 1)" in " ".join(table.caption)
    assert printed(tables.averages([table], at_least=1)[0])["ERM"][0] == "65.0 +/- 5.0"


def test_a_plan_with_fewer_trials_of_a_row_is_told(tmp_path):
    runs = [*grid(), *grid(algorithm="PCL")]
    runs += [spec("PCL", target, trial_seed=2) for target in TARGETS]
    plan(tmp_path, runs)
    for run in runs:
        write_simple(tmp_path, run, 0.5)
    (table,) = build(tmp_path)
    assert all(cell.whole for row in table.rows for cell in row.cells)
    assert "standard error over the 2 to 3 trials (seeds 0, 1, 2)" in " ".join(table.caption)


def test_shared_draws_that_are_not_the_same_values_are_told(tmp_path):
    for trial in (0, 1):
        for draw in (0, 1):
            run = spec(trial_seed=trial, hparams_seed=draw)
            lr = 0.1 if draw == 0 else 0.1 + trial
            write(tmp_path, run, [record(run, 600, constant(run, 0.5, 0.5)) | {"hparams": {"lr": lr}}])
    (table,) = tables.build(load(tmp_path), RULES["last"], draws="shared")
    told = "shared draws whose hyper-parameters are not the same in every run: 1"
    assert table.notes[-1] == told
    assert "chosen once for all trials" in " ".join(table.caption)


def test_runs_with_two_targets_are_no_cells(tmp_path):
    write_grid(tmp_path)
    write_simple(tmp_path, spec(target=("art", "cartoon")), 0.9)
    (table,) = build(tmp_path)
    assert len(table.columns) == 3
    assert table.notes == ["runs with several targets, read by leave_one_domain_out only: 1"]


def test_leave_one_domain_out_counts_the_runs_it_needs(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path, spec(target=target), 0.5)
    with pytest.raises(UsageError, match="needs runs with two targets, here are none; choose from: training"):
        build(tmp_path, "leave_one_domain_out")
    for pair in (("art", "cartoon"), ("art", "sketch")):
        write_simple(tmp_path, spec(target=pair), 0.9)
    (table,) = build(tmp_path, "leave_one_domain_out")
    assert printed(table) == {"ERM": ["50.0", "- (2/3)", "- (2/3)", "-"]}
    assert table.notes == ["no run found: ERM, cartoon+sketch, trial 0, draw 0"]


def test_only_runs_with_two_targets_is_one_line(tmp_path):
    write_simple(tmp_path, spec(target=("art", "cartoon")), 0.9)
    with pytest.raises(UsageError, match="single target"):
        build(tmp_path)


def test_single_source_has_a_column_per_source(tmp_path):
    for source, test in (("art", 0.2), ("sketch", 0.4)):
        run = spec(target=(), source_envs=(source,), task="single_source")
        values = {f"{name}/{part}": test for name in TARGETS for part in ("in", "out")}
        write(tmp_path, run, [record(run, 600, values)])
    (table,) = build(tmp_path)
    assert table.columns == ["art", "sketch"]
    assert printed(table) == {"ERM": ["20.0", "40.0", "30.0"]}
    assert "every other domain" in table.caption[0]


def test_pairs_of_domains_are_columns(tmp_path):
    for source, target in (("art", "sketch"), ("sketch", "art")):
        run = spec(target=target, source_envs=(source,), task="domain_adaptation")
        write(tmp_path, run, [record(run, 600, constant(run, 0.5, 0.5))])
    (table,) = build(tmp_path)
    assert table.columns == ["art>sketch", "sketch>art"]


def test_headings_and_order_are_the_data_sets(tmp_path, monkeypatch):
    toy = type("Toy", (), {"domains": ("sketch", "art", "cartoon"), "columns": {"sketch": "S"}})
    monkeypatch.setattr("dgbench.registry.find", lambda folder, name: toy)
    write_grid(tmp_path)
    (table,) = build(tmp_path)
    assert table.columns == ["S", "art", "cartoon"]


def test_averages_over_data_sets(tmp_path):
    write_grid(tmp_path)
    for run in grid():
        write_simple(tmp_path, type(run)(**{**vars(run), "dataset": "Other"}), 0.2)
    built = build(tmp_path)
    (table,) = tables.averages(built)
    assert table.columns == ["Other", "Toy"]
    # trials of Toy: means over targets 0.6 and 0.7
    assert printed(table) == {"ERM": ["20.0 +/- 0.0", "65.0 +/- 3.5", "42.5"]}
    assert tables.averages(built[:1]) == []


def test_averages_leave_out_incomplete_data_sets(tmp_path):
    write_grid(tmp_path)
    runs = [type(run)(**{**vars(run), "dataset": "Other"}) for run in grid()]
    for run in runs[:-1]:
        write_simple(tmp_path, run, 0.2)
    (table,) = tables.averages(build(tmp_path))
    assert printed(table) == {"ERM": ["- (5/6)", "65.0 +/- 3.5", "-"]}


def test_averages_leave_out_data_sets_that_lack_a_draw(tmp_path):
    write_grid(tmp_path)
    runs = [
        type(run)(**{**vars(run), "dataset": "Other", "hparams_seed": d}) for run in grid() for d in (0, 1)
    ]
    for run in runs[:-1]:
        write_simple(tmp_path, run, 0.2)
    (table,) = tables.averages(build(tmp_path))
    assert printed(table) == {"ERM": ["- (11/12)", "65.0 +/- 3.5", "-"]}


def test_text_and_markdown(tmp_path):
    write_grid(tmp_path)
    built = build(tmp_path)
    text = formats.text(built)
    assert re.search(r"^ERM +55.0 \+/- 3.5 +65.0 \+/- 3.5 +75.0 \+/- 3.5 +65.0$", text, re.MULTILINE)
    assert "| ERM         | 55.0 +/- 3.5 |" in formats.markdown(built)


def test_latex_is_escaped_and_whole(tmp_path):
    long_name = "A_very_long_name_of_a_method_with_100%_{braces}"
    write_grid(tmp_path, algorithm=long_name)
    latex = formats.latex(build(tmp_path))
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}"):
        assert rule in latex
    assert r"A\_very\_long\_name\_of\_a\_method\_with\_100\%\_\{braces\} & 55.0 $\pm$ 3.5 &" in latex
    assert not re.search(r"(?<!\\)_", latex)
    assert len(re.findall(r"(?<!\\)\{", latex)) == len(re.findall(r"(?<!\\)\}", latex))


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("a_b & 5% #1 $x", r"a\_b \& 5\% \#1 \$x"), ("A>C", r"A\textgreater{}C"), ("1 +/- 2", r"1 $\pm$ 2")],
)
def test_escape(value, escaped):
    assert formats.escape(value) == escaped


def test_csv_has_a_line_per_cell(tmp_path):
    write_grid(tmp_path)
    rows = list(csv.DictReader(io.StringIO(formats.csv(build(tmp_path)))))
    assert [row["column"] for row in rows] == ["art", "cartoon", "sketch", "Avg"]
    assert (rows[0]["mean"], rows[0]["error"], rows[0]["found"]) == ("55.0000", "3.5355", "2")
    assert (rows[3]["mean"], rows[3]["error"]) == ("65.0000", "")


@pytest.mark.parametrize("rule", ["training_domain_validation", "leave_one_domain_out", "oracle"])
def test_cells_equal_domainbeds_own(domainbed_sweep, rule):
    expected = {}
    lines = (domainbed_sweep / "expected.txt").read_text().splitlines()
    for heading, _, row in zip(lines, lines[1:], lines[2:], strict=False):
        if heading.startswith("--------"):
            kind, name = heading.split(", model selection method: ")
            expected[kind.split()[1], name] = row.split(maxsplit=1)[1].split("  ")
    sweep = load(domainbed_sweep / "runs")
    built = tables.build(sweep, RULES[rule])
    title = RULES[rule].title
    for name, table in (("Dataset:", built[0]), ("Averages", tables.averages(built, at_least=1)[0])):
        theirs = [cell.strip() for cell in expected[name, title] if cell.strip()]
        assert printed(table) == {"ERM": theirs}
    assert sum(len(run.columns) for run in sweep.runs) == 200


def test_files_of_labelled_images_are_one_row(tmp_path):
    """One for each target and trial, as Dassl's; how many labels they have is theirs to say."""
    for trial in range(2):
        for target in TARGETS:
            few = spec(
                "ERM", target, task="semi_supervised", trial_seed=trial, label_split=f"{target}{trial}"
            )
            write(tmp_path, few, [record(few, 0, constant(few, 0.5, 0.5))])
    built = build(tmp_path, "last")
    ((row,),) = (table.rows for table in built)
    assert [len(cell.scores) for cell in row.cells] == [2, 2, 2]
    assert "labelled images as a file says" in formats.text(built)
    assert "labels per class" not in formats.text(built)


def test_rows_sort_by_their_numbers_and_a_superscript_is_none():
    assert sorted(["x10", "x1²", "x2", "x1"], key=natural) == ["x1", "x1²", "x2", "x10"]
