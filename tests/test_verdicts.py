import csv
import json

import pytest
from literal_runs import record, spec, write, write_simple

from dgbench.collect import comparison, published, stats, verdicts
from dgbench.collect.load import load
from dgbench.collect.rules import RULES, early_stopping
from dgbench.collect.tables import build
from dgbench.spec import RunSpec

PAPER = """paper,table,task,dataset,method,column,metric,value,spread
"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,PCL,art,accuracy,66.1,
"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,PCL,sketch,accuracy,70.0,0.25
"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,PCL,Avg,accuracy,68.0,
"PCL (Yao et al., CVPR 2022)",toy,retrieval,Toy,PCL,art,accuracy,1.0,
"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,PCL,art,P@1,2.0,
"PCL (Yao et al., CVPR 2022)",oracle,domain_generalization,Toy,Cheat,art,accuracy,99.0,
"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,Elsewhere,quickdraw,accuracy,3.0,
"""

PROTOCOL = {
    "paper": {
        "facts": {
            "steps": 601,
            "backbone": "small",
            "pretrained": "none",
            "freeze_bn": None,
            "draws": 1,
            "averaging": "raw",
            "trials": 3,
            "spread": "domainbed",
            "selection": ["last"],
        },
        "methods": {"PCL": {"algorithm": "ERM"}},
        "remarks": ["a remark"],
    }
}
TARGETS = ("art", "cartoon", "sketch")


@pytest.fixture
def sweep(tmp_path):
    """Three trials around 66 % on each target."""
    for target in TARGETS:
        for trial, test in enumerate((0.655, 0.660, 0.665)):
            write_simple(tmp_path / "runs", spec(target=target, trial_seed=trial), test)
    return tmp_path / "runs"


def table_of(sweep, folder, rule="last", **facts):
    (folder / "paper.csv").write_text(PAPER)
    known = json.loads(json.dumps(PROTOCOL))
    known["paper"]["facts"] |= facts
    (folder / "protocols.json").write_text(json.dumps(known))
    verdicts._read.cache_clear()
    published._read.cache_clear()
    (table,) = build(load(sweep), RULES[rule])
    published.add([table], folder)
    return table


def printed(row):
    return [*map(str, row.cells), str(row.average)]


def test_published_rows_stand_below_ours_with_a_verdict(sweep, tmp_path):
    table = table_of(sweep, tmp_path)
    ours, theirs, verdict = table.rows
    assert ours.source == ""
    assert theirs.label == "PCL, published (PCL, CVPR 2022)"
    # their average is over other columns than ours
    assert printed(theirs) == ["66.1", "-", "70.0 +/- 0.25", "-"]
    assert verdict.label == "  ERM: verdict"
    assert printed(verdict) == ["consistent (p 0.76)", "-", "lower (p < 0.001)", "-"]
    assert table.published == [
        "ERM with PCL (PCL, CVPR 2022): not known: freeze_bn",
        "published (PCL, CVPR 2022): a remark",
    ]
    assert "Welch" in table.caption[-1]


def test_the_p_values_are_those_of_the_test(sweep, tmp_path):
    table = table_of(sweep, tmp_path)
    ours = [65.5, 66.0, 66.5]
    t = 0.1 / (0.5 / 3**0.5)  # with 2 degrees of freedom, p = 1 - t / sqrt(2 + t^2)
    assert stats.against_published(ours, 66.1, None, 3, "domainbed") == pytest.approx(
        1 - t / (2 + t**2) ** 0.5
    )
    assert stats.against_published(ours, 70.0, 0.25, 3, "domainbed") < 0.001
    assert str(table.rows[2].cells[0]) == "consistent (p 0.76)"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"steps": 5001}, "steps 5001 there, 601 here"),
        ({"backbone": "resnet50"}, "backbone resnet50 there, small here"),
        ({"pretrained": "IMAGENET1K_V1"}, "pretrained IMAGENET1K_V1 there, none here"),
        ({"draws": 20}, "draws 20 there, 1 here"),
        ({"labels_per_class": 5}, "labels_per_class 5 there, 10 here"),
        ({"selection": ["early_stopping"]}, "selection early_stopping there, last here"),
        ({"hparams": {"variant": "official"}}, "variant official there, unknown here"),
    ],
)
def test_what_is_not_comparable_says_why(sweep, tmp_path, facts, reason):
    table = table_of(sweep, tmp_path, **facts)
    assert printed(table.rows[2]) == ["not comparable", "-", "not comparable", "-"]
    assert f"not comparable: {reason}" in table.published[0]


def test_a_frozen_backbone_is_not_comparable(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path / "runs", spec(target=target, frozen=True), 0.66)
    table = table_of(tmp_path / "runs", tmp_path)
    assert "not comparable: the backbone is trained there, frozen here" in table.published[0]
    assert printed(table.rows[2])[0] == "not comparable"


def test_an_error_whose_kind_is_not_told_is_not_used(sweep, tmp_path):
    """Three trials against 70.0 alone: t = 4 / (0.5 / sqrt 3) with 2 degrees of freedom."""
    table = table_of(sweep, tmp_path, spread=None)
    t = 4 / (0.5 / 3**0.5)
    assert str(table.rows[2].cells[2]) == f"lower (p {1 - t / (2 + t**2) ** 0.5:.2g})"


def test_another_evaluation_interval_is_only_told(sweep, tmp_path):
    table = table_of(sweep, tmp_path, checkpoint_freq=100)
    assert "checkpoint_freq 100 there, 300 here" in table.published[0]
    assert str(table.rows[2].cells[0]).startswith("consistent")


def test_smaller_images_are_not_comparable_and_what_was_set_is_told(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path / "runs", spec(target=target, image_size=64, hparams={"lr": 0.001}), 0.5)
    table = table_of(tmp_path / "runs", tmp_path, image_size=224)
    assert "not comparable: image_size 224 there, 64 here" in table.published[0]
    assert "set here: lr=0.001" in table.published[0]


def test_how_many_labels_a_file_gives_is_not_known(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path / "runs", spec(target=target, label_split="0123abcd"), 0.66)
    table = table_of(tmp_path / "runs", tmp_path, labels_per_class=5)
    assert "ERM with PCL (PCL, CVPR 2022): not known: freeze_bn, labels_per_class" in table.published[0]


def test_other_averaging_is_not_compared_at_all(sweep, tmp_path):
    table = table_of(sweep, tmp_path, averaging="swad")
    assert [row.label for row in table.rows] == ["ERM", "PCL, published (PCL, CVPR 2022)"]


MISSING_PATTERNS = """paper,table,task,dataset,method,column,metric,value,spread
"RCL (A et al., B 2021)",table2,single_source,Digits_MP,ERM,Validation,accuracy,96.0,1.0
"RCL (A et al., B 2021)",table2,single_source,Digits_MP,ERM,Test,accuracy,20.0,2.0
"RCL (A et al., B 2021)",table2,single_source,Digits_MP,SD (early),Test,accuracy,5.0,1.0
"RCL (A et al., B 2021)",table2,single_source,Digits_MP,SD,Test,accuracy,40.0,2.0
"RCL (A et al., B 2021)",table2,single_source,Digits_MP,RSC,Test,accuracy,30.0,2.0
"""


def missing_patterns(folder, scores, rule=RULES["training_domain_validation"]):
    """The table of {method: test accuracies of three trials}, beside ``MISSING_PATTERNS``."""
    for method, tests in scores.items():
        for trial, test in enumerate(tests):
            run = RunSpec(
                "Digits_MP", method, task="single_source", source_envs=("train",), trial_seed=trial, steps=2
            )
            parts = {"validation": ["validation/all"], "test": ["test/all"], "oracle": []}
            line = record(run, 1, {"validation/all": 0.96 + trial / 100, "test/all": test})
            write(folder / "runs", run, [line | {"parts": parts}])
    (folder / "rcl.csv").write_text(MISSING_PATTERNS)
    facts = {"trials": 10, "spread": "deviation", "selection": ["training_domain_validation"]}
    methods = {"SD (early)": {"algorithm": "SD", "selection": ["early_stopping"]}}
    (folder / "protocols.json").write_text(json.dumps({"rcl": {"facts": facts, "methods": methods}}))
    verdicts._read.cache_clear()
    published._read.cache_clear()
    (table,) = build(load(folder / "runs"), rule, spread="deviation")
    published.add([table], folder)
    comparison.add_validation([table])
    return table


def test_a_table_with_validation_and_test_beside_the_published_one(tmp_path):
    table = missing_patterns(tmp_path, {"ERM": (0.19, 0.20, 0.21)})
    assert table.columns == ["Test"] and "part of the target domain" in table.caption[0]
    ours, theirs, verdict = table.rows[:3]
    assert (str(ours.cells[0]), ours.extra) == ("20.0 +/- 1.0", {"Validation": "97.0 +/- 1.0"})
    assert (str(theirs.cells[0]), theirs.extra) == ("20.0 +/- 2.0", {"Validation": "96.0 +/- 1.0"})
    assert str(verdict.cells[0]).startswith("consistent")
    p = stats.against_published([96, 97, 98], 96.0, 1.0, 10, "deviation")
    assert verdict.extra == {"Validation": f"consistent (p {p:.2g})"}
    assert not any("rank correlation" in note for note in table.published)  # of one row


@pytest.mark.parametrize(("scores", "rho"), [((0.2, 0.5, 0.3), "1.00"), ((0.5, 0.3, 0.4), "-1.00")])
def test_the_order_of_the_rows_is_compared(tmp_path, scores, rho):
    found = {name: (score,) * 3 for name, score in zip(("ERM", "SD", "RSC"), scores, strict=True)}
    table = missing_patterns(tmp_path, found)
    assert f"order of 3 rows: Spearman's rank correlation with RCL, B 2021 is {rho}" in table.published


def test_the_order_takes_the_rows_of_the_tables_rule(tmp_path):
    found = {"ERM": (0.3,), "SD": (0.2,), "RSC": (0.5,)}
    # SD is 5 there by this rule; 40 by best validation
    table = missing_patterns(tmp_path, found, rule=early_stopping(0.95))
    assert "order of 3 rows: Spearman's rank correlation with RCL, B 2021 is 1.00" in table.published


def test_a_row_of_another_rule_is_not_shown(tmp_path):
    assert not any("early" in row.label for row in missing_patterns(tmp_path, {"SD": (0.4,)}).rows)


def test_an_incomplete_cell_has_no_verdict(sweep, tmp_path):
    (sweep / spec(target="art").run_id() / "done").unlink()
    table = table_of(sweep, tmp_path)
    assert str(table.rows[2].cells[0]) == "no result"


def test_one_trial_against_a_bare_number_is_not_tested(tmp_path):
    for target in TARGETS:
        write_simple(tmp_path / "runs", spec(target=target), 0.67)
    table = table_of(tmp_path / "runs", tmp_path)
    # 70.0 has an error: one more draw from its distribution
    assert printed(table.rows[2])[0] == "+0.9, no test"
    assert printed(table.rows[2])[2].startswith("lower")


def test_the_average_is_tested_over_trials(tmp_path):
    """Columns of 56, 66 and 76 %: each trial's mean over them counts, as if exact: 65.5, 66.0, 66.5."""
    for target, shift in zip(TARGETS, (-0.1, 0.0, 0.1), strict=True):
        for trial, test in enumerate((0.655, 0.660, 0.665)):
            write_simple(tmp_path / "runs", spec(target=target, trial_seed=trial), test + shift)
    line = '"PCL (Yao et al., CVPR 2022)",toy,domain_generalization,Toy,PCL,{},accuracy,66.1,\n'
    (tmp_path / "more").mkdir()
    text = PAPER.splitlines()[0] + "\n" + "".join(line.format(c) for c in (*TARGETS, "Avg"))
    (tmp_path / "more" / "paper.csv").write_text(text)
    (tmp_path / "more" / "protocols.json").write_text(json.dumps(PROTOCOL))
    (table,) = build(load(tmp_path / "runs"), RULES["last"])
    published.add([table], tmp_path / "more")
    assert printed(table.rows[2])[3] == "consistent (p 0.76)"


def test_published_rows_of_another_rule_are_left_out(sweep, tmp_path):
    table = table_of(sweep, tmp_path, rule="oracle")
    assert [row.label.split(",")[0] for row in table.rows if row.source] == ["Cheat", "PCL", "  ERM: verdict"]


def test_no_published_numbers_is_told(sweep, tmp_path):
    built = build(load(sweep), RULES["last"])
    published.add(built, tmp_path / "missing")
    assert "not available" in built[0].published[0]


@pytest.mark.skipif(not published.FOLDER.is_dir(), reason="no results/published")
def test_the_published_files_and_their_protocols():
    protocols = json.loads((published.FOLDER / verdicts.FILE).read_text())
    assert {path.stem for path in published.FOLDER.glob("*.csv")} == set(protocols)
    known = {
        *verdicts.FIELDS,
        *verdicts.IF_TOLD,
        *verdicts.REMARKED,
        "averaging",
        "trials",
        "spread",
        "algorithm",
        "hparams",
        "datasets",
    }
    for stem, paper in protocols.items():
        with open(published.FOLDER / f"{stem}.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        for line in lines:
            assert line["paper"] and line["dataset"] and line["method"] and line["column"]
            assert 0 <= float(line["value"]) <= 100
            assert line["spread"] == "" or float(line["spread"]) >= 0
        assert {line["paper"] for line in lines} == {paper["paper"]}
        assert set(paper["methods"]) <= {line["method"] for line in lines}
        assert set(paper["datasets"]) <= {line["dataset"] for line in lines}
        told = [paper["facts"], *paper["datasets"].values(), *paper["methods"].values()]
        assert all(set(facts) <= known for facts in told)
        assert set(known) - set(paper["facts"]) <= {
            "checkpoint_freq",
            "labels_per_class",
            "image_size",
            "selection",
            "algorithm",
            "hparams",
            "datasets",
        }
        assert paper["facts"]["spread"] in (None, *stats.SPREADS)


def test_pcls_published_row_is_pcl_with_swad():
    known = verdicts.protocol(published.FOLDER, "pcl", "PCL", "PACS", "pacs")
    assert (known.algorithm, known.averaging, known.facts["steps"]) == ("PCL", "swad", 4801)
    assert verdicts.protocol(published.FOLDER, "pcl", "SWAD", "PACS", "pacs").algorithm == "ERM"
    assert verdicts.protocol(published.FOLDER, "pcl", "CORAL", "PACS", "pacs").facts["steps"] is None
    left_out = verdicts.protocol(published.FOLDER, "domainbed", "IRM", "DomainNet", "leave_one_domain_out")
    assert left_out.facts["selection"] == ["leave_one_domain_out"]
