"""Runs -> tables in DomainBed's shape: algorithms by targets, mean +/- standard error over trials, Avg.

A cell is averaged only when every run that belongs to it is done; otherwise it shows how many are. Runs that
differ in anything but algorithm, domains, trial and hyper-parameters never share a table.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import UsageError
from . import directions
from .evidence import is_held_out_pair
from .formats import Cell, Row, Table, comparable, measure, row_of, span
from .rows import Group, natural
from .rules import DEFAULT, RULES
from .runs import Run, Settings, Sweep
from .selection import DRAWS, Choice, Column, Rule, select
from .stats import SPREADS

ROW = ("algorithm", "hparams", "averaging")
"""The settings that make a row; all others make a table of their own."""
LAST = replace(RULES["last"], sentence="The last checkpoint.")
"""Of retrieval, where nothing validates."""


def build(sweep: Sweep, rule: Rule, draws: str = "per_trial", spread: str = "domainbed") -> list[Table]:
    """A table for each data set, task and setting. ``UsageError`` where the rule has nothing to read.

    draws: of ``selection.DRAWS``. spread: of ``stats.SPREADS``.
    """
    uses_pairs = rule.evidence == "left_out"
    every = directions.split(sweep.runs)
    pairs = [run for run in every if is_held_out_pair(run.spec)]
    runs = every if uses_pairs else [run for run in every if not is_held_out_pair(run.spec)]
    if uses_pairs and not pairs:
        others = ", ".join(name for name in RULES if name != rule.name)
        raise UsageError(f"{rule.name} needs runs with two targets, here are none; choose from: {others}")
    if len(pairs) == len(every):
        raise UsageError("no run here has a single target, so there is nothing to score")
    choices: dict[tuple[Settings, Column, int, str], Choice] = {}
    for each in {_rule(run, rule).name: _rule(run, rule) for run in runs}.values():
        own = [run for run in runs if _rule(run, rule) == each]
        choices |= {(c.settings, c.column, c.trial_seed, c.weights): c for c in select(own, each, draws)}
    groups: dict[Settings, list[Run]] = {}
    for run in runs:
        groups.setdefault(_of_table(run), []).append(run)
    unread_pairs = Counter(map(_of_table, pairs))
    tables = []
    for key, members in groups.items():
        group = Group(dict(key), members, _rule(members[0], rule), sweep.planned, choices, spread)
        table = _table(group, _variant(key, groups), draws)
        unread = 0 if uses_pairs else unread_pairs[key]
        if unread:
            table.notes.append(f"runs with several targets, read by leave_one_domain_out only: {unread}")
        tables.append(table)
    return sorted(tables, key=lambda table: (table.dataset.lower(), table.task, natural(table.variant)))


def _rule(run: Run, rule: Rule) -> Rule:
    """The rule, or the last checkpoint for a task that has nothing to validate on."""
    return LAST if run.spec.task == directions.TASK and rule.name in (DEFAULT, LAST.name) else rule


def _of_table(run: Run) -> Settings:
    return _without_row(run.settings)


@lru_cache(maxsize=4096)  # thousands of runs share it
def _without_row(settings: Settings) -> Settings:
    return tuple(item for item in settings if item[0] not in ROW)


def _table(group: Group, variant: str, draws: str) -> Table:
    rows = group.build()
    own = {run.settings for run in group.runs}
    if draws == "shared":
        _note_differing_draws(group)
    return Table(
        dataset=group.dataset,
        task=group.settings["task"],
        rule=group.rule,
        variant=variant,
        columns=group.headings,
        rows=rows,
        caption=_caption(group, rows, draws),
        notes=group.notes,
        settings=group.settings,
        spread=group.spread,
        keys=group.columns,
        choices=[choice for choice in group.choices.values() if choice.settings in own],
    )


def _note_differing_draws(group: Group) -> None:
    values: dict[tuple[Settings, int], set[str]] = {}
    for run in group.runs:
        if run.state == "done":
            values.setdefault((run.settings, run.spec.hparams_seed), set()).add(run.hparams)
    differing = sorted({draw for (_, draw), told in values.items() if len(told) > 1})
    if differing:
        told = ", ".join(map(str, differing))
        group.odd.append(f"shared draws whose hyper-parameters are not the same in every run: {told}")


def averages(tables: Iterable[Table], at_least: int = 2) -> list[Table]:
    """A table over data sets, for each task and variant that has ``at_least`` of them.

    A cell is the mean over trials of each trial's mean over the columns, as in DomainBed.
    """
    found = []
    for (task, variant), members in comparable(tables).items():
        if len(members) < at_least:
            continue
        labels = dict.fromkeys(row.label for table in members for row in table.rows if not row.source)
        rows = [row_of(label, [_over_columns(table, label) for table in members]) for label in labels]
        caption = [
            "Mean over trials of each trial's mean over the columns of a data set, +/- "
            f"{SPREADS[members[0].spread].name} ({SPREADS[members[0].spread].formula}).",
            "A data set with an incomplete cell has no average.",
        ]
        names = [table.dataset for table in members]
        found.append(Table("Averages", task, members[0].rule, variant, names, rows, caption, []))
    return found


def _over_columns(table: Table, label: str) -> Cell:
    cells = next((row.cells for row in table.rows if row.label == label), ())
    found, expected = sum(cell.found for cell in cells), sum(cell.expected for cell in cells)
    trials = {tuple(cell.scores) for cell in cells}
    if not cells or len(trials) != 1 or not all(cell.whole for cell in cells):
        return Cell(found=found, expected=expected)
    scores = {trial: float(np.mean([cell.scores[trial] for cell in cells])) for trial in cells[0].scores}
    return measure(scores, found, expected, True, table.spread)


def _variant(key: Settings, groups: Iterable[Settings]) -> str:
    """The fields in which ``key`` differs from the other groups of its data set and task."""
    told = dict(key)
    same = [dict(k) for k in groups if all(dict(k)[name] == told[name] for name in ("dataset", "task"))]
    differing = [name for name in told if len({other[name] for other in same}) > 1]
    return ", ".join(f"{name}: {told[name]}" for name in differing)


def _caption(group: Group, rows: Sequence[Row], draws: str) -> list[str]:
    """Sentences: what is reported, how it was selected, over which trials, from which training."""
    parts = {part.rpartition("/")[2] for run in group.runs for part in run.columns.parts.get("test", ())}
    what = " and ".join(f'"{part}"' for part in sorted(parts)) or '"in"'
    single = group.settings["task"] == "single_source" and not group.validation_domain
    whose = "every other domain" if single else "the target domain"
    number = len({run.spec.hparams_seed for run in group.runs})
    return [
        _scored(group) or f"Accuracy in percent on the {what} part of {whose}.",
        group.rule.sentence,
        DRAWS[draws],
        _spread(group, rows),
        *([f"Up to {number} hyper-parameter draws per trial."] if number > 1 else []),
        "Avg: mean of the columns.",
        *_training(group.settings),
        *_set_everywhere(group),
        *(['"(2/3)": runs done of runs needed; such a cell is in no average.'] if _partial(rows) else []),
    ]


def _spread(group: Group, rows: Sequence[Row]) -> str:
    """What "+/-" is, and over which trials: of a plan's rows, some may have fewer."""
    told = [cell.scores for row in rows for cell in row.cells if cell.whole and len(cell.scores) > 1]
    trials = sorted(set().union(*told) or {run.spec.trial_seed for run in group.runs})
    seeds = ", ".join(map(str, trials))
    if len(trials) == 1:
        return f"One trial (seed {seeds})."
    number = span([len(scores) for scores in told] or [len(trials)])
    kind = SPREADS[group.spread]
    return f"+/-: {kind.name} over the {number} trials (seeds {seeds}), that is {kind.formula}."


def _scored(group: Group) -> str:
    """What is reported of retrieval."""
    if group.settings["task"] != directions.TASK:
        return ""
    seen = group.settings.get("split", "official") == "official"
    images = "the images trained on" if seen else 'the "out" parts, images never trained on'
    what = "images of the first domain retrieve those of their class in the second"
    limit = group.settings.get("max_images", 0)
    images += f", {limit:,} random ones of a domain" if limit else ""
    return f"{group.settings['metric']} in percent: {what}; {images}."


def _partial(rows: Sequence[Row]) -> bool:
    return any(cell.expected and not cell.whole for row in rows for cell in row.cells)


def _set_everywhere(group: Group) -> list[str]:
    """The hyper-parameters that every row has in place of its defaults."""
    chosen = [{(name, str(value)) for name, value in run.spec.hparams.items()} for run in group.runs]
    same = sorted(set.intersection(*chosen)) if chosen else []
    return [f"In every row: {', '.join(f'{name} {value}' for name, value in same)}."] if same else []


def _training(settings: Mapping[str, Any]) -> list[str]:
    told = {name: value for name, value in settings.items() if value is not None}
    few = told["task"] == "semi_supervised" and "labels_per_class" in told
    words = [
        f"{told['labels_per_class']} labels per class and source domain" if few else "",
        "labelled images as a file says" if told.get("label_split") else "",
        f"{told['steps']} updates" if "steps" in told else "",
        f"evaluated every {told['checkpoint_freq']}" if "checkpoint_freq" in told else "",
        f"backbone {told['backbone']}" if "backbone" in told else "",
        f"pretrained weights {told['pretrained']}" if "pretrained" in told else "",
        f"images of {told['image_size']} pixels" if told.get("image_size") else "",
        f"precision {told['precision']}" if told.get("precision", "float32") != "float32" else "",
        "features of the frozen backbone" if told.get("frozen") else "",
        "batch-norm statistics frozen" if told.get("freeze_bn") else "",
    ]
    words = [word for word in words if word]
    return [f"Training: {', '.join(words)}."] if words else []
