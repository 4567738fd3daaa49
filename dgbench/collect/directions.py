"""Runs of retrieval as tables read them: one for each metric and direction, query domain > gallery domain.

A run trains on two domains and is scored in both directions by several metrics; a cell of a table has one
direction, and a table one metric, as in UCDIR's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .. import registry
from ..errors import UsageError
from .runs import Run

TASK = "retrieval"
LENGTH = ("steps", "checkpoint_freq")


def split(runs: Sequence[Run]) -> list[Run]:
    """The runs, those of retrieval once for each direction and metric: source = query, target = gallery.

    Its metric is the setting "metric"; a run that has no record yet takes those of its data set's others. The
    number of steps is no setting where it follows from the pair, as it does when all train for some epochs;
    "Untrained" makes none, whatever it is told.
    """
    known: dict[str, list[str]] = {}
    lengths: dict[tuple[str, tuple[str, ...]], set[int | None]] = {}
    for run in runs:
        if run.spec.task == TASK:
            names = known.setdefault(run.spec.dataset, _planned(run))
            names += [name for name in metrics(run) if name not in names]
            if run.spec.algorithm != "Untrained":
                lengths.setdefault((run.spec.dataset, run.spec.test_envs), set()).add(run.spec.steps)
    hidden = LENGTH if all(len(steps) == 1 for steps in lengths.values()) else ()
    return [each for run in runs for each in (_of(run, known, hidden) if run.spec.task == TASK else (run,))]


def metrics(run: Run) -> list[str]:
    """What a run of retrieval is scored by, in the order of its records: "P@1", ..., "mAP"."""
    part = next(iter(run.columns.parts.get("test", ())), None)
    return [name.removeprefix(f"{part}/") for name in run.columns.names if name.startswith(f"{part}/")]


def _planned(run: Run) -> list[str]:
    """The metrics that every run of the data set has."""
    try:
        return [f"P@{k}" for k in getattr(registry.find("datasets", run.spec.dataset), "ks", ())]
    except UsageError:  # a data set of somebody else
        return []


def _of(run: Run, known: dict[str, list[str]], hidden: Sequence[str]) -> Iterator[Run]:
    settings = [item for item in run.settings if item[0] not in hidden]
    for query, gallery in (run.spec.test_envs, run.spec.test_envs[::-1]):
        parts = {**run.columns.parts, "test": [f"{query}>{gallery}"]}
        spec = replace(run.spec, source_envs=(query,), test_envs=(gallery,))
        own = replace(run.columns, parts=parts if run.columns.parts else {})
        for metric in known[run.spec.dataset]:
            yield replace(run, spec=spec, columns=own, settings=(*settings, ("metric", metric)))
