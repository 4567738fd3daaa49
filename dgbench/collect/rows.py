"""The rows of one table: which runs each cell needs, what was chosen there, and what is missing."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from typing import Any

from .. import registry
from ..errors import UsageError
from ..spec import is_soup
from .evidence import domain_of, is_held_out_pair
from .formats import Cell, Row, measure, row_of
from .runs import Run, Settings
from .selection import Choice, Column, Rule, mean

WEIGHTS = {"raw": "", "ema": " + EMA", "swa": " + SWA", "swad": " + SWAD"}


def weights_label(weights: str) -> str:
    """What follows the method's name: "", " + SWAD", " + SWAD (tolerance_ratio=0.2)"."""
    name, _, options = weights.partition(":")
    return WEIGHTS.get(name, f" + {name}") + (f" ({options})" if options else "")


Slot = tuple[tuple[str, ...], int, int]  # (targets, trial_seed, hparams_seed)


@dataclass
class Group:
    """The runs of one table, and what is expected of them."""

    settings: Mapping[str, Any]
    runs: list[Run]
    rule: Rule
    planned: bool
    choices: Mapping[tuple[Settings, Column, int, str], Choice]
    spread: str = "domainbed"
    missing: dict[str, dict[str, None]] = field(default_factory=dict)  # {reason: {run: None}}
    odd: list[str] = field(default_factory=list)

    def build(self) -> list[Row]:
        """The rows; fills ``missing`` and ``odd``. ``UsageError`` where the data of runs differs."""
        self._check_fingerprints()
        self._check_domains()
        self._note_code()
        return [self._row(*found) for found in self._rows()]

    def _row(self, key: Settings, weights: str, label: str) -> Row:
        cells = [self._cell(key, column, weights, label) for column in self.columns]
        validation = self._validation(key, weights, cells)
        return row_of(label, cells, runs=self._by_row[key], weights=weights, validation=validation)

    @property
    def notes(self) -> list[str]:
        return [f"{reason}: {_some(list(names))}" for reason, names in self.missing.items()] + self.odd

    @property
    def headings(self) -> list[str]:
        return [self._heading(column) for column in self.columns]

    @cached_property
    def dataset(self) -> str:
        return self.settings["dataset"]

    @cached_property
    def _class(self) -> type | None:
        try:
            return registry.find("datasets", self.dataset)
        except UsageError:  # read from another machine, or from DomainBed
            return None

    @cached_property
    def validation_domain(self) -> str:
        """The domain that a single source is validated on, where the data set has one; else empty."""
        single = self.settings["task"] == "single_source"
        return (getattr(self._class, "validation", None) or "") if single else ""

    @cached_property
    def domains(self) -> list[str]:
        """Every domain of the data set, in its order; names that only the records know come last."""
        found = {name for run in self.runs for name in (*run.spec.source_envs, *run.spec.test_envs)}
        for run in self.runs:
            parts = run.columns.parts
            found |= {domain_of(part) for kind in ("validation", "test") for part in parts.get(kind, ())}
        known = list(getattr(self._class, "domains", ()))
        listed = known if not found.isdisjoint(known) else []
        return listed + sorted(found - set(listed), key=natural)

    @cached_property
    def columns(self) -> list[Column]:
        """The columns found or planned; without a plan any domain is a target where sources are the rest."""
        found = {
            (run.spec.source_envs, run.spec.test_envs) for run in self.runs if not is_held_out_pair(run.spec)
        }
        if not self.planned and any(targets and not sources for sources, targets in found):
            found |= {((), (domain,)) for domain in self.domains}
        order = {domain: i for i, domain in enumerate(self.domains)}
        return sorted(found, key=lambda column: [[order[name] for name in side] for side in column])

    def _heading(self, column: Column) -> str:
        short = getattr(self._class, "columns", {})
        sides = [side for side in column if side]
        if self.validation_domain:
            sides = [tuple(name for name in self.domains if name not in (*column[0], self.validation_domain))]
        return ">".join("+".join(short.get(name, name) for name in side) for side in sides)

    def _rows(self) -> Iterator[tuple[Settings, str, str]]:
        """(settings, weights, label), in the plan's order; without a plan ERM first, then by name."""
        keys = list(dict.fromkeys(run.settings for run in self.runs))
        labels = dict(zip(keys, _labels([dict(key) for key in keys]), strict=True))
        if not self.planned:
            keys.sort(key=lambda key: (dict(key)["algorithm"] != "ERM", natural(labels[key].lower())))
        for key in keys:
            averaging = dict(key)["averaging"]
            raw = () if is_soup(averaging) else ("raw",)
            evaluated = {*raw, *averaging} | self._weights_of(key)
            for weights in sorted(evaluated, key=[*WEIGHTS, *sorted(evaluated)].index):
                yield key, weights, labels[key] + weights_label(weights)

    def _weights_of(self, key: Settings) -> set[str]:
        return {kind for run in self._by_row[key] for kind in run.columns.kinds}

    @cached_property
    def _by_row(self) -> dict[Settings, list[Run]]:
        found: dict[Settings, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.settings, []).append(run)
        return found

    def _expected(self, key: Settings, column: Column) -> dict[Slot, list[Run]]:
        """Which runs a cell needs: the planned ones, else every trial and draw that was found elsewhere."""
        sources, targets = column
        held_out = [targets]
        if self.rule.evidence == "left_out":
            held_out += [self._in_order({*targets, other}) for other in self.domains if other not in targets]
        slots: dict[Slot, list[Run]] = {}
        row = self._by_row[key]
        if not self.planned:
            trials = sorted({run.spec.trial_seed for run in self.runs})
            draws = sorted({run.spec.hparams_seed for run in row})
            slots = {slot: [] for slot in product(held_out, trials, draws)}
        for run in row:
            spec, names = run.spec, self._in_order(run.spec.test_envs)
            if names in held_out and spec.source_envs == sources:
                slots.setdefault((names, spec.trial_seed, spec.hparams_seed), []).append(run)
        return slots

    def _in_order(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=self.domains.index) if len(names) > 1 else names)

    def _cell(self, key: Settings, column: Column, weights: str, label: str) -> Cell:
        slots = self._expected(key, column)
        where = f"{label}, {self._heading(column)}"
        found = 0
        for (targets, trial, draw), runs in slots.items():
            reasons = [(run.name, self._reason(run, weights)) for run in runs]
            if not runs:
                reasons = [(f"{label}, {'+'.join(targets)}, trial {trial}, draw {draw}", "no run found")]
            if sum(run.state == "done" for run in runs) > 1:
                reasons += [(run.name, "more than one run of its trial and draw") for run in runs]
            found += all(not reason for _, reason in reasons)
            for name, reason in reasons:
                if reason:
                    self.missing.setdefault(reason, {})[name] = None
        scores = {}
        trials = sorted({trial for _, trial, _ in slots})
        for trial in trials:
            choice = self.choices.get((key, column, trial, weights))
            if choice is not None:
                scores[trial] = choice.test
                if not choice.chosen:
                    self.odd.append(f"no checkpoint could be chosen: {where}, trial {trial}")
                elif math.isnan(choice.test):
                    self.odd.append(
                        f"NaN accuracy: {where}, trial {trial} ({choice.run}, step {choice.step})"
                    )
            elif found == len(slots):
                self.odd.append(f"nothing to choose from: {where}, trial {trial}")
        whole = found == len(slots) and len(scores) == len(trials)
        return measure(scores, found, len(slots), whole, self.spread)

    def _validation(self, key: Settings, weights: str, cells: Sequence[Cell]) -> Cell:
        """The score of the chosen checkpoints, over the trials that every cell has."""
        whole = all(cell.whole for cell in cells)
        scores = {}
        for trial in sorted(set.intersection(*(set(cell.scores) for cell in cells))) if cells else ():
            chosen = [self.choices[key, column, trial, weights] for column in self.columns]
            scores[trial] = mean([choice.validation if choice.chosen else math.nan for choice in chosen])
        found, expected = sum(cell.found for cell in cells), sum(cell.expected for cell in cells)
        return measure(scores, found, expected, whole, self.spread)

    def _reason(self, run: Run, weights: str) -> str:
        if run.state == "done" and weights not in run.columns.kinds:
            return f"done, but without {weights} weights"
        return run.reason

    def _note_code(self) -> None:
        """Say which code wrote the records where that is not one version."""
        counts = Counter(code for run in self.runs if run.state == "done" for code in run.codes)
        if len(counts) > 1:
            told = ", ".join(f"{code} ({count} runs)" for code, count in sorted(counts.items()))
            self.odd.append(f"records of {len(counts)} code versions: {told}")

    def _check_fingerprints(self) -> None:
        """``UsageError`` where runs that are done were made from different content."""
        differing = self._differing(
            lambda run: [(domain, told) for domain, all_ in run.fingerprints.items() for told in all_]
        )
        if differing:
            told = "; ".join(f"{domain} in {' and '.join(names)}" for domain, names in differing.items())
            raise UsageError(f"the content of a domain differs, so these are not averaged: {told}")

    def _check_domains(self) -> None:
        """``UsageError`` where trials of a cell have other domains: of a data set that is found on disk."""

        def sources(run: Run) -> list[tuple[Any, Any]]:
            cell = (run.settings, run.spec.source_envs, run.spec.test_envs)
            return [(cell, tuple(run.columns.parts.get("validation", ())))]

        for names in self._differing(sources).values():
            told = " and ".join(names)
            raise UsageError(f"the source domains differ, so these are not averaged: {told}")

    def _differing(self, told: Callable[[Run], Iterable[tuple[Any, Any]]]) -> dict[Any, list[str]]:
        """{key: a run for each of its values} of the keys for which runs that are done tell several."""
        seen: dict[Any, dict[Any, str]] = {}
        for run in self.runs:
            for key, value in told(run) if run.state == "done" else ():
                seen.setdefault(key, {}).setdefault(value, run.name)
        return {key: list(runs.values()) for key, runs in seen.items() if len(runs) > 1}


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """ "PCL (lr=0.0001)": the algorithm, and what tells its rows apart where it has several.

    A method whose description calls it our reading of its paper is called so in every table.
    """
    labels = []
    for row in rows:
        same = [other for other in rows if other["algorithm"] == row["algorithm"]]
        own, others = json.loads(row["hparams"]), [json.loads(other["hparams"]) for other in same]
        told = ["our reading"] if _is_a_reading(row["algorithm"]) else []
        told += [
            f"{name}={value}"
            for name, value in own.items()
            if any(name not in other or other[name] != value for other in others)
        ]
        of_runs = {other["averaging"] for other in same if not is_soup(other["averaging"])}
        if len(of_runs) > 1 and not is_soup(row["averaging"]):  # the weights of a soup have its name
            told.append(f"averaging={'+'.join(row['averaging']) or 'none'}")
        labels.append(row["algorithm"] + (f" ({', '.join(told)})" if told else ""))
    return labels


@cache
def _is_a_reading(algorithm: str) -> bool:
    try:
        return "our reading" in registry.docstring(registry.source("algorithms", algorithm))
    except UsageError:  # read from another machine, or from DomainBed
        return False


def _some(names: Sequence[str], most: int = 20) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f", and {more} more" if more > 0 else "")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts env2 before env10."""
    return [(0, int(t), "") if t.isdecimal() else (1, 0, t) for t in re.split(r"(\d+)", name) if t]
