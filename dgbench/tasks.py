"""(dataset, spec) -> Split: who is source, who is target, whose labels are hidden. Imports no torch.

Each domain is cut in an "in" part (80 %) and an "out" part (20 %), DomainBed's split to the index. A method
sees ``labelled`` and ``unlabelled`` pools only; the target's labels stay in ``evaluated``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .dataset import Dataset, Domain
from .errors import UsageError
from .splits import split

if TYPE_CHECKING:
    from .spec import RunSpec


@dataclass(frozen=True)
class Pool:
    """Some images of one domain. labels: int64 (n,), or None where they are hidden."""

    domain: Domain
    env: int  # the domain's index in the data set
    indices: np.ndarray  # int64 (n,), rows of domain.images
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Split:
    """What a run trains on, and the parts it is evaluated on, by key ``domain/part``."""

    labelled: tuple[Pool, ...]
    evaluated: dict[str, Pool]
    parts: dict[str, list[str]]  # "validation": selected on; "test": scored on; "oracle": on request only
    unlabelled: tuple[Pool, ...] = field(default=())

    @property
    def domains(self) -> dict[str, Domain]:
        pools = (*self.labelled, *self.unlabelled, *self.evaluated.values())
        return {pool.domain.name: pool.domain for pool in pools}


def domain_generalization(spec: "RunSpec", dataset: Dataset, envs: Sequence[str]) -> Split:
    """Train on all domains but the targets, select on their "out" parts, score on the target's "in" part."""
    sources, targets = sources_and_targets(spec, envs)
    loaded = {domain.name: domain for domain in dataset.load([*sources, *targets])}
    pools = {name: _in_and_out(spec, loaded[name], envs.index(name)) for name in loaded}
    return Split(
        labelled=tuple(pools[name][0] for name in sources),
        evaluated={f"{name}/out": pools[name][1] for name in sources}
        | {f"{name}/{part}": pools[name][i] for name in targets for i, part in enumerate(("in", "out"))},
        parts={
            "validation": [f"{name}/out" for name in sources],
            "test": [f"{name}/in" for name in targets],
            "oracle": [f"{name}/out" for name in targets],
        },
    )


def single_source(spec: "RunSpec", dataset: Dataset, envs: Sequence[str]) -> Split:
    """Train on one domain, select on its "out" part, score on every image of every other domain.

    A data set that has a domain for validation trains on every image of its source, by default the first
    domain, and selects on that domain.
    """
    own = [dataset.validation] if dataset.validation else []
    if taken := {*own} & {*spec.source_envs, *spec.test_envs}:
        others = ", ".join(name for name in envs if name not in own)
        raise UsageError(
            f"{spec.dataset} validates on {taken.pop()}; choose source and target from: {others}"
        )
    sources, targets = sources_and_targets(spec, [name for name in envs if name not in own])
    if len(sources) != 1:
        raise UsageError(f"single_source trains on one domain; give one of --source_envs {' '.join(envs)}")
    loaded = {domain.name: domain for domain in dataset.load([*sources, *own, *targets])}
    everything = {
        name: Pool(domain, envs.index(name), np.arange(len(domain)), domain.labels)
        for name, domain in loaded.items()
    }
    (source,) = sources
    if own:
        train, validation = everything[source], {f"{name}/all": everything[name] for name in own}
    else:
        train, outside = _in_and_out(spec, loaded[source], envs.index(source))
        validation = {f"{source}/out": outside}
    tested = {f"{name}/all": everything[name] for name in targets}
    return Split(
        labelled=(train,),
        evaluated={**validation, **tested},
        parts={"validation": list(validation), "test": list(tested), "oracle": list(tested)},
    )


TASKS: dict[str, Callable[["RunSpec", Dataset, Sequence[str]], Split]] = {
    "domain_generalization": domain_generalization,
    "single_source": single_source,
}

GIVES: dict[str, tuple[str, ...]] = {"domain_generalization": (), "single_source": ()}
"""What a task's batches hold beyond labelled images, as methods declare it in ``needs``."""


def sources_and_targets(spec: "RunSpec", envs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The run's source and target domains; ``UsageError`` if either is empty or they overlap."""
    targets = list(spec.test_envs)
    if not targets and spec.task == "single_source":
        targets = [name for name in envs if name not in spec.source_envs]
    sources = list(spec.source_envs) or [name for name in envs if name not in targets]
    choices = f"choose from: {', '.join(f'{i}={name}' for i, name in enumerate(envs))}"
    if not targets:
        raise UsageError(f"--test_envs names no target domain; {choices}")
    if not sources:
        raise UsageError(f"--test_envs takes every domain, no source is left to train on; {choices}")
    if both := sorted(set(sources) & set(targets)):
        raise UsageError(f"{', '.join(both)} cannot be source and target at once; {choices}")
    return sources, targets


def _in_and_out(spec: "RunSpec", domain: Domain, env: int) -> tuple[Pool, Pool]:
    inside, outside = split(len(domain), spec.holdout_fraction, spec.trial_seed, env)
    if len(outside) == 0:
        share = f"--holdout_fraction {spec.holdout_fraction} of {len(domain)} images"
        raise UsageError(f"domain {domain.name}: {share} leaves none to validate on")
    first, second = (Pool(domain, env, part, domain.labels[part]) for part in (inside, outside))
    return first, second
