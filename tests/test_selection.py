import dataclasses
import json
import math

import numpy as np
import pytest
from golden_vectors import FOLDER
from literal_runs import constant, record, spec

from dgbench.collect import domainbed_records, rules, top
from dgbench.collect.rules import RULES
from dgbench.collect.runs import of_lines
from dgbench.collect.selection import Rule, select
from dgbench.errors import UsageError


def run_of(run, *checkpoints, state="done"):
    """checkpoints: (step, {part: accuracy})."""
    return of_lines(run.run_id(), run, state, [record(run, step, values) for step, values in checkpoints])


def choose(rule, *runs, draws="per_trial"):
    return select(runs, RULES[rule] if isinstance(rule, str) else rule, draws)


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


def test_ties_go_to_the_highest_draw_then_the_earliest_step():
    # DomainBed sorts draws by accuracy, upwards, and takes the last; among checkpoints it takes the first
    same = [three_checkpoints(draw, (0.1, 0.7, 0.7), (draw / 10,) * 3) for draw in (10, 2)]
    (choice,) = choose("training_domain_validation", *same)
    assert (choice.hparams_seed, choice.step) == (10, 300)


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
    lines = [
        record(spec(), 600, constant(spec(), 0.9, test), kind) for kind, test in (("raw", 0.5), ("swad", 0.6))
    ]
    runs[0] = of_lines(runs[0].name, spec(), "done", lines)
    choices = choose("training_domain_validation", *runs)
    assert sorted(choice.weights for choice in choices) == ["raw"] * 5 + ["swad"]
    assert {choice.test for choice in choices if choice.weights == "swad"} == {0.6}


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_only_runs_that_are_done_count(state):
    A_broken = dataclasses.replace(A, state=state)
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
    (choice,) = choose("last", of_lines(run.run_id(), run, "done", [only]))
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


def test_leave_one_domain_out_reads_the_same_kind_of_weights():
    def with_swad(run, accuracies):
        """Both kinds of weights: the raw ones at 0.5 everywhere, swad's as given, by part and step."""
        lines = [record(run, step, constant(run, 0.5, 0.5)) for step in (0, 300)]
        for step, own in zip((0, 300), accuracies, strict=True):
            lines.append(record(run, step, {**constant(run, 0.5, 0.5), **own}, "swad"))
        return of_lines(run.run_id(), run, "done", lines)

    run = with_swad(spec(), [{"sketch/in": 0.1}, {"sketch/in": 0.2}])
    pairs = [
        with_swad(spec(target=(other, "sketch")), [{f"{other}/in": 0.3}, {f"{other}/in": 0.9}])
        for other in ("art", "cartoon")
    ]
    choices = {choice.weights: choice for choice in choose("leave_one_domain_out", run, *pairs)}
    assert (choices["raw"].step, choices["raw"].validation) == (0, 0.5)
    assert (choices["swad"].step, choices["swad"].validation, choices["swad"].test) == (300, 0.9, 0.2)


def without(run, *names):
    """The run with columns taken out."""
    kept = [i for i, name in enumerate(run.columns.names) if name not in names]
    columns = dataclasses.replace(
        run.columns, names=tuple(run.columns.names[i] for i in kept), values=run.columns.values[kept]
    )
    return dataclasses.replace(run, columns=columns)


def test_leave_one_domain_out_never_reads_the_target_of_the_pair():
    art, cartoon = held_out("art", 0, (0.2, 0.4, 0.9)), held_out("cartoon", 0, (0.2, 0.8, 0.1))
    blind = [without(run, "sketch/in/acc", "sketch/out/acc") for run in (art, cartoon)]
    (choice,) = choose("leave_one_domain_out", A, *blind)
    assert choice.step == 300


@pytest.mark.parametrize(
    "cheat",
    [
        lambda candidates: candidates.validation["sketch/in"],
        lambda candidates: candidates.validation["sketch/out"],
        lambda candidates: candidates.columns["sketch/in/acc"],
        lambda candidates: candidates.test,
    ],
)
def test_a_rule_that_cheats_finds_nothing_to_read(cheat):
    rule = Rule("cheat", "", "", lambda candidates: int(cheat(candidates).argmax()))
    with pytest.raises((KeyError, AttributeError)):
        choose(rule, A, B)


@pytest.mark.parametrize("key", ["sketch/in/acc", "sketch/out/acc", "sketch/in/loss"])
def test_a_rule_that_asks_for_the_targets_labels_is_refused(key):
    rule = Rule("cheat", "", "", rules.best, evidence="metrics", keys=lambda spec, parts: [key])
    with pytest.raises(UsageError, match="may need hidden labels; choose a metric from: entropy"):
        choose(rule, A, B)


def test_a_candidate_carries_nothing_of_the_target():
    seen = []
    choose(Rule("spy", "", "", lambda candidates: seen.append(candidates)), A)
    assert set(seen[0].validation) == {"art/out", "cartoon/out"}
    assert {f.name for f in dataclasses.fields(seen[0])} == {"run", "hparams_seed", "step", "validation"}


@pytest.mark.parametrize("part", ["sketch/out", "sketch/in"])
def test_a_record_that_calls_the_target_validation_is_refused(part):
    line = record(A.spec, 0, constant(A.spec, 0.5, 0.5))
    line["parts"]["validation"].append(part)
    with pytest.raises(UsageError, match="a part of its target"):
        choose("training_domain_validation", of_lines(A.name, A.spec, "done", [line]))


def test_a_part_that_is_scored_is_no_validation_of_single_source():
    run = spec(target=(), task="single_source", source_envs=("art",))
    line = record(run, 0, {"art/out": 0.5, "cartoon/in": 0.5, "sketch/in": 0.5})
    line["parts"]["validation"].append("sketch/in")
    with pytest.raises(UsageError, match="names sketch/in, a part of its target"):
        choose("training_domain_validation", of_lines(run.run_id(), run, "done", [line]))


def test_a_missing_accuracy_is_one_line():
    line = record(A.spec, 300, {"art/out": 0.5, "sketch/in": 0.5})
    with pytest.raises(UsageError, match=r"step 300: the record has no cartoon/out/acc"):
        choose("training_domain_validation", of_lines(A.name, A.spec, "done", [line]))


@pytest.mark.parametrize(
    ("threshold", "draw", "step", "test"),
    [(0.2, 1, 0, 0.9), (0.35, 0, 300, 0.3), (0.55, 0, 300, 0.3)],  # A: 0.2 0.9 0.5, B: 0.3 0.4 0.6
)
def test_early_stopping_takes_the_first_checkpoint_that_reaches_the_threshold(threshold, draw, step, test):
    (choice,) = choose(rules.early_stopping(threshold), A, B)
    assert (choice.hparams_seed, choice.step, choice.test) == (draw, step, test)


def test_early_stopping_that_is_never_reached_has_no_result():
    (choice,) = choose(rules.early_stopping(0.95), A, B)
    assert not choice.chosen
    assert math.isnan(choice.test)


def with_metric(run, name, values):
    """The run with a number in each of its records."""
    kept = run.columns
    columns = dataclasses.replace(kept, names=(*kept.names, name), values=np.vstack([kept.values, values]))
    return dataclasses.replace(run, columns=columns)


@pytest.mark.parametrize(
    ("metric", "values", "step"),
    [
        ("target/all/entropy", [2.0, 0.1, 0.5], 300),  # the lower the better
        ("target/all/im", [2.0, 0.1, 0.5], 0),
        ("source/out/loss", [2.0, 0.5, 0.1], 600),
    ],
)
def test_label_free_validators(metric, values, step):
    run = A
    for domain in ("art", "cartoon") if metric.startswith("source") else ("sketch",):
        run = with_metric(run, f"{domain}/{metric.partition('/')[2]}", values)
    (choice,) = choose(rules.label_free(metric), run)
    assert (choice.step, choice.test) == (step, {0: 0.1, 300: 0.3, 600: 0.8}[step])


def test_a_label_free_metric_of_the_sources_is_their_mean():
    run = with_metric(A, "art/out/loss", [0.1, 0.2, 0.9])
    run = with_metric(run, "cartoon/out/loss", [0.9, 0.2, 0.1])
    (choice,) = choose(rules.label_free("source/out/loss"), run)
    assert (choice.step, choice.validation) == (300, pytest.approx(0.2))


@pytest.mark.parametrize("name", ["pseudo_acc", "kept_acc"])
def test_labels_that_training_never_sees_select_nothing(name):
    run = with_metric(A, f"art/unlabelled/{name}", [0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match=f"art/unlabelled/{name} .* may need hidden labels"):
        choose(rules.label_free(f"art/unlabelled/{name}"), run)


def test_a_target_of_single_source_is_what_is_scored():
    run = dataclasses.replace(A, spec=dataclasses.replace(A.spec, test_envs=(), source_envs=("art",)))
    with pytest.raises(UsageError, match="may need hidden labels"):
        choose(rules.label_free("target/in/acc"), run)


def test_a_label_free_validator_that_was_not_recorded_is_one_line():
    with pytest.raises(UsageError, match="the record has no sketch/all/im"):
        choose(rules.label_free("target/all/im"), A)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "orcale"}, "did you mean oracle"),
        ({"name": "early_stopping"}, "--threshold 0.95"),
        ({"name": "last", "threshold": 0.5}, "belongs to --selection early_stopping"),
        ({"name": "early_stopping", "threshold": 95.0}, "no accuracy"),
        ({"name": "label_free"}, "target/all/entropy"),
        ({"name": "label_free", "metric": "entropy"}, "is not <domain>/<part>/<name>"),
    ],
)
def test_rules_of_a_command_line(flags, message):
    with pytest.raises(UsageError, match=message):
        rules.make(**flags)


def test_draws_shared_over_trials():
    # trial 0 prefers draw 0 (0.9 against 0.8), trial 1 draw 1 by more (0.4 against 0.9)
    validations = {(0, 0): 0.9, (0, 1): 0.8, (1, 0): 0.4, (1, 1): 0.9}
    runs = [
        three_checkpoints(draw, (0.1, value, 0.2), (0.0, trial + draw / 10, 0.0), trial_seed=trial)
        for (trial, draw), value in validations.items()
    ]
    per_trial = choose("training_domain_validation", *runs)
    assert [choice.hparams_seed for choice in per_trial] == [0, 1]
    shared = choose("training_domain_validation", *runs, draws="shared")
    assert [(c.trial_seed, c.hparams_seed, c.step, c.test) for c in shared] == [
        (0, 1, 300, 0.1),
        (1, 1, 300, 1.1),
    ]


def test_a_shared_draw_has_the_lowest_mean_where_lower_is_better():
    entropies = {(0, 0): 0.3, (0, 1): 0.5, (1, 0): 0.9, (1, 1): 0.4}  # means 0.6 and 0.45
    runs = [
        with_metric(
            three_checkpoints(draw, (0.5,) * 3, (0.5,) * 3, trial_seed=trial),
            "sketch/all/entropy",
            [1.0, value, 1.0],
        )
        for (trial, draw), value in entropies.items()
    ]
    rule = rules.label_free("target/all/entropy")
    assert [choice.hparams_seed for choice in choose(rule, *runs)] == [0, 1]
    assert [(c.hparams_seed, c.step) for c in choose(rule, *runs, draws="shared")] == [(1, 300)] * 2
    listed = [line for line in top.text(runs, rule, 2).splitlines() if "draw " in line]
    assert ["draw 0" in line for line in listed] == [True, False, False, True]
    assert "validation 0.3000" in listed[0] and "validation 0.4000" in listed[2]


def test_a_shared_draw_must_be_in_every_trial():
    runs = [
        three_checkpoints(draw, (0.1, 0.5 + draw / 10, 0.2), (0.5,) * 3, trial_seed=trial)
        for trial, draw in ((0, 0), (0, 1), (1, 0))
    ]
    assert {choice.hparams_seed for choice in choose("last", *runs, draws="shared")} == {0}


@pytest.mark.golden
def test_choices_equal_domainbeds():
    golden = json.loads((FOLDER / "dg" / "domainbed_protocol.json").read_text())["selection"]
    by_draw = {}
    for line in golden["records"]:
        by_draw.setdefault(line["args"]["hparams_seed"], []).append(line)
    runs = []
    for draw, lines in by_draw.items():
        run = domainbed_records.spec(lines[0])
        runs.append(of_lines(str(draw), run, "done", domainbed_records.convert(run, lines)))
    assert [choice.test for choice in choose("training_domain_validation", *runs)] == [golden["iid"]]
    assert [choice.test for choice in choose("oracle", *runs)] == [golden["oracle"]]
