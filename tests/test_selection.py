import json
import math
import os
from dataclasses import fields
from pathlib import Path

import pytest
from literal_runs import constant, record, spec

from dgbench import domainbed_records
from dgbench.errors import UsageError
from dgbench.records import Run
from dgbench.selection import RULES, Rule, select


def run_of(run, *checkpoints, weights="raw", state="done"):
    """checkpoints: (step, {part: accuracy})."""
    return Run(run.run_id(), run, state, [record(run, step, values, weights) for step, values in checkpoints])


def choose(rule, *runs):
    return select(runs, RULES[rule] if isinstance(rule, str) else rule)


def three_checkpoints(draw, validations, tests, oracles=(0, 0, 0), **fields):
    run = spec(hparams_seed=draw, **fields)
    rows = zip((0, 300, 600), validations, tests, oracles, strict=True)
    return run_of(run, *((step, constant(run, val, test, oracle)) for step, val, test, oracle in rows))


A = three_checkpoints(0, (0.2, 0.9, 0.5), (0.1, 0.3, 0.8), (0.4, 0.9, 0.7))
B = three_checkpoints(1, (0.3, 0.4, 0.6), (0.9, 0.2, 0.4), (0.8, 0.1, 0.2))


@pytest.mark.parametrize(
    ("rule", "draw", "step", "test"),
    [
        ("training_domain_validation", 0, 300, 0.3),  # validation 0.9; the best test, 0.9, is elsewhere
        ("oracle", 0, 600, 0.8),  # "out" 0.7 against 0.2 at the last checkpoints
        ("last", 1, 600, 0.4),  # validation 0.6 against 0.5 at the last checkpoints
    ],
)
def test_rules_on_a_worked_example(rule, draw, step, test):
    (choice,) = choose(rule, B, A)
    assert (choice.hparams_seed, choice.step, choice.test) == (draw, step, test)


def test_validation_is_the_unweighted_mean_over_sources():
    run = spec()
    unequal = {"art/out": 1.0, "cartoon/out": 0.0, "sketch/in": 0.1, "sketch/out": 0.0}
    equal = {"art/out": 0.6, "cartoon/out": 0.6, "sketch/in": 0.2, "sketch/out": 0.0}
    (choice,) = choose("training_domain_validation", run_of(run, (0, unequal), (300, equal)))
    assert (choice.step, choice.validation, choice.test) == (300, 0.6, 0.2)


def test_ties_go_to_the_lowest_draw_then_the_earliest_step():
    same = [three_checkpoints(draw, (0.1, 0.7, 0.7), (draw / 10,) * 3) for draw in (10, 2)]
    (choice,) = choose("training_domain_validation", *same)
    assert (choice.hparams_seed, choice.step) == (2, 300)


def test_trials_targets_weights_and_settings_are_groups_of_their_own():
    runs = [
        three_checkpoints(0, (0.1, 0.2, 0.3), (0.5,) * 3, **fields)
        for fields in (
            {},
            {"trial_seed": 1},
            {"target": "art"},
            {"backbone": "other"},
            {"hparams": {"lr": 1}},
        )
    ]
    swad = spec()
    runs[0].records.append(record(swad, 600, constant(swad, 0.9, 0.6), "swad"))
    choices = choose("training_domain_validation", *runs)
    assert sorted(choice.weights for choice in choices) == ["raw"] * 5 + ["swad"]
    assert {choice.test for choice in choices if choice.weights == "swad"} == {0.6}


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_only_runs_that_are_done_count(state):
    A_broken = Run(A.name, A.spec, state, A.records)
    (choice,) = choose("training_domain_validation", A_broken, B)
    assert choice.hparams_seed == 1
    assert choose("training_domain_validation", A_broken) == []


def test_nan_never_wins():
    diverged = three_checkpoints(0, (math.nan, math.nan, math.nan), (0.9,) * 3)
    (choice,) = choose("training_domain_validation", diverged, B)
    assert choice.hparams_seed == 1
    (alone,) = choose("training_domain_validation", diverged)
    assert math.isnan(alone.test)


def test_last_needs_no_validation_with_one_draw():
    run = spec()
    only = record(run, 600, {"sketch/in": 0.7})
    only["parts"]["validation"] = []
    (choice,) = choose("last", Run(run.run_id(), run, "done", [only]))
    assert choice.test == 0.7


def test_single_source_reports_the_mean_of_the_other_domains():
    run = spec(target=(), task="single_source", source_envs=("art",))
    values = {"art/out": 0.9, "cartoon/in": 0.2, "sketch/in": 0.6}
    (choice,) = choose("training_domain_validation", run_of(run, (0, values)))
    assert choice.column == (("art",), ())
    assert choice.test == pytest.approx(0.4)


def held_out(other, draw, accuracies):
    """The run that holds ``other`` out beside sketch; accuracies of ``other``'s "in" part per checkpoint."""
    run = spec(target=(other, "sketch"), hparams_seed=draw)
    rows = zip((0, 300, 600), accuracies, strict=True)
    return run_of(run, *((step, {**constant(run, 0.5, 0.99), f"{other}/in": acc}) for step, acc in rows))


def test_leave_one_domain_out_reads_the_runs_with_two_targets():
    art, cartoon = held_out("art", 0, (0.2, 0.4, 0.9)), held_out("cartoon", 0, (0.2, 0.8, 0.1))
    (choice,) = choose("leave_one_domain_out", A, art, cartoon)
    assert (choice.step, choice.test) == (300, 0.3)  # means 0.2, 0.6, 0.5
    assert choice.validation == pytest.approx(0.6)


def test_leave_one_domain_out_needs_every_source():
    art, cartoon = held_out("art", 0, (0.2, 0.4, 0.9)), held_out("cartoon", 0, (0.2, 0.8, 0.1))
    assert choose("leave_one_domain_out", A, art) == []
    incomplete = held_out("art", 1, (1.0, 1.0, 1.0))
    (choice,) = choose("leave_one_domain_out", A, B, art, cartoon, incomplete)
    assert choice.hparams_seed == 0


def test_leave_one_domain_out_never_reads_the_target_of_the_pair():
    art, cartoon = held_out("art", 0, (0.2, 0.4, 0.9)), held_out("cartoon", 0, (0.2, 0.8, 0.1))
    for run in (art, cartoon):
        for line in run.records:
            del line["metrics"]["sketch/in/acc"]
            del line["metrics"]["sketch/out/acc"]
    (choice,) = choose("leave_one_domain_out", A, art, cartoon)
    assert choice.step == 300


@pytest.mark.parametrize(
    "cheat",
    [
        lambda candidate: candidate.validation["sketch/in"],
        lambda candidate: candidate.metrics["sketch/in/acc"],
        lambda candidate: candidate.test,
    ],
)
def test_a_rule_that_cheats_finds_nothing_to_read(cheat):
    rule = Rule("cheat", "", "", lambda candidates: max(candidates, key=cheat))
    with pytest.raises((KeyError, AttributeError)):
        choose(rule, A, B)


def test_a_candidate_carries_nothing_of_the_target():
    seen = []
    rule = Rule("spy", "", "", lambda candidates: seen.extend(candidates) or candidates[0])
    choose(rule, A)
    assert {part for candidate in seen for part in candidate.validation} == {"art/out", "cartoon/out"}
    assert {f.name for f in fields(seen[0])} == {"run", "hparams_seed", "step", "validation"}


@pytest.mark.parametrize("part", ["sketch/out", "sketch/in"])
def test_a_record_that_calls_the_target_validation_is_refused(part):
    line = record(A.spec, 0, constant(A.spec, 0.5, 0.5))
    line["parts"]["validation"].append(part)
    with pytest.raises(UsageError, match="a part of its target"):
        choose("training_domain_validation", Run(A.name, A.spec, "done", [line]))


def test_a_missing_accuracy_is_one_line():
    line = record(A.spec, 300, {"art/out": 0.5, "sketch/in": 0.5})
    with pytest.raises(UsageError, match=r"step 300: the record has no cartoon/out/acc"):
        choose("training_domain_validation", Run(A.name, A.spec, "done", [line]))


@pytest.mark.golden
def test_choices_equal_domainbeds():
    folder = Path(os.environ.get("DGBENCH_GOLDEN", Path(__file__).parent / "golden"))
    path = folder / "dg" / "domainbed_protocol.json"
    if not path.exists():
        pytest.skip("no golden/dg/domainbed_protocol.json")
    golden = json.loads(path.read_text())["selection"]
    by_draw = {}
    for line in golden["records"]:
        by_draw.setdefault(line["args"]["hparams_seed"], []).append(line)
    runs = []
    for draw, lines in by_draw.items():
        run = domainbed_records.spec(lines[0])
        runs.append(Run(str(draw), run, "done", domainbed_records.convert(run, lines)))
    assert [choice.test for choice in choose("training_domain_validation", *runs)] == [golden["iid"]]
    assert [choice.test for choice in choose("oracle", *runs)] == [golden["oracle"]]
