"""A run and its records as selection, tables and reports read them; ``load.py`` makes them from files."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from .. import records
from ..records import Record
from ..spec import RunSpec
from .columns import Columns, columns

Settings = tuple[tuple[str, Any], ...]  # ((field of RunSpec, its value; a mapping as JSON), ...)
CELL = ("test_envs", "source_envs", "trial_seed", "hparams_seed")
"""The fields of a spec that differ within one row of a table."""


@dataclass
class Run:
    """A run and its records. ``settings``: what the runs of one row share, all of the spec but ``CELL``."""

    name: str
    spec: RunSpec
    state: str = "waiting"
    columns: Columns = field(default_factory=Columns)
    error: str = ""  # last line of error.txt
    fingerprints: Mapping[str, Collection[str]] = field(default_factory=dict)  # {domain: what its lines say}
    codes: Collection[str] = ()  # versions of the code that wrote the records
    hparams: str = "{}"  # the resolved values, as JSON
    folder: str = ""
    problems: Collection[str] = ()  # what was skipped, in words
    settings: Settings = ()

    def __post_init__(self) -> None:
        self.settings = self.settings or settings(self.spec)

    @property
    def reason(self) -> str:
        """Why the run does not count, in words; empty for a run that is done."""
        if self.state == "done":
            return ""
        if self.state == "failed":
            return f"failed: {self.error or 'error.txt is empty'}"
        seen = len(set(self.columns["step"]))
        total = f" of {len(records.evaluation_steps(self.spec))}" if self.spec.steps else ""
        if self.state == "running":
            return f"running: {seen}{total} evaluations"
        return f"not finished: {seen}{total} evaluations" if seen else "not started"


@dataclass
class Sweep:
    """The runs of a folder: the planned ones first, in the plan's order, then others by name."""

    runs: list[Run]
    planned: bool  # sweep.json says which runs are expected
    notes: list[str]  # what was skipped, in words


def settings(spec: RunSpec) -> Settings:
    """All of a spec but ``CELL``; of files of labelled images, one for each cell, that there are any."""
    told = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in CELL}
    if spec.label_split:
        told |= {"label_split": "given", "labels_per_class": None}
    return tuple(
        (name, json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value)
        for name, value in told.items()
    )


def _is_whole(line: Record) -> bool:
    """Whether a line has what tables read, each of its kind."""
    parts = line.get("parts")
    if not (isinstance(parts, dict) and isinstance(line.get("metrics"), dict) and "test" in parts):
        return False
    told = (line.get("losses"), line.get("seconds"), line.get("fingerprint"))
    return all(value is None or isinstance(value, dict) for value in told)


def of_lines(
    name: str, spec: RunSpec, state: str, lines: list[Record], problems: Collection[str] = (), **more: Any
) -> Run:
    """A run with these lines as its records."""
    whole = [line for line in lines if _is_whole(line)]
    skipped = [*problems]
    if len(whole) < len(lines):
        skipped.append(f"{len(lines) - len(whole)} lines without metrics or parts were skipped")
    kept, left_out = columns(whole)
    fingerprints: dict[str, set[str]] = {}
    seen: Any = None
    for line in whole:
        content = line.get("fingerprint")
        if content and content != seen:
            seen = content
            for domain, told in content.items():
                fingerprints.setdefault(domain, set()).add(json.dumps(told, sort_keys=True))
    codes = dict.fromkeys(line["code"] for line in whole if "code" in line)
    hparams = orjson.dumps(whole[-1].get("hparams", {})).decode() if whole else "{}"
    return Run(
        name,
        spec,
        state,
        kept,
        fingerprints=fingerprints,
        codes=tuple(codes),
        hparams=hparams,
        problems=skipped + left_out,
        **more,
    )
