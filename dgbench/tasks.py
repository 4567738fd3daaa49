"""(dataset, spec) -> Split: who is source, who is target, whose labels are hidden. Imports no torch.

Each domain is cut in an "in" part (80 %) and an "out" part (20 %), DomainBed's split to the index. A method
sees ``labelled`` and ``unlabelled`` pools only; the target's labels stay in ``evaluated``.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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

    def without_labels(self) -> "Pool":
        """The same images for a method that must not see their labels."""
        return replace(self, labels=None)

    def take(self, rows: np.ndarray) -> "Pool":
        """The images at ``rows`` of this pool."""
        return replace(self, indices=self.indices[rows], labels=_some(self.labels, rows))

    def sample(self, count: int, seed: int | tuple[int, ...] = 0) -> "Pool":
        """At most ``count`` images in their order, of a seed always the same random ones."""
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))


@dataclass(frozen=True)
class Split:
    """What a run trains on, and the parts it is evaluated on, by key ``domain/part``."""

    labelled: tuple[Pool, ...]
    evaluated: dict[str, Pool]
    parts: dict[str, list[str]]  # "validation": selected on; "test": scored on; "oracle": on request only
    unlabelled: tuple[Pool, ...] = field(default=())
    pseudo: dict[str, Pool] = field(default_factory=dict)
    """The unlabelled pools of ``semi_supervised`` with their labels, by key; evaluation alone sees them."""

    @property
    def training(self) -> tuple[Pool, ...]:
        """What a method trains on: the labelled pools, then the unlabelled ones."""
        return (*self.labelled, *self.unlabelled)

    @property
    def domains(self) -> dict[str, Domain]:
        pools = (*self.training, *self.evaluated.values())
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
    everything = {name: _everything(domain, envs.index(name)) for name, domain in loaded.items()}
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


def semi_supervised(spec: "RunSpec", dataset: Dataset, envs: Sequence[str]) -> Split:
    """Train on few labels per class of each source and the other images of the sources, without their labels.

    Parts are those of ``domain_generalization``; a source's "in" part is cut in the labelled images,
    ``--labels_per_class`` of them, and the unlabelled rest.
    """
    whole = domain_generalization(spec, dataset, envs)
    labelled, rest = [], []
    for pool in whole.labelled:
        chosen = few_per_class(pool, spec.labels_per_class, spec.trial_seed)
        labelled.append(pool.take(np.flatnonzero(chosen)))
        rest.append(pool.take(np.flatnonzero(~chosen)))
        if not len(rest[-1]) and not spec.label_split:  # a file decides later
            raise UsageError(
                f"--labels_per_class {spec.labels_per_class} leaves no unlabelled image of {pool.domain.name}"
            )
    return replace(
        whole,
        labelled=tuple(labelled),
        unlabelled=tuple(pool.without_labels() for pool in rest),
        pseudo={f"{pool.domain.name}/unlabelled": pool for pool in rest},
    )


def domain_adaptation(spec: "RunSpec", dataset: Dataset, envs: Sequence[str]) -> Split:
    """Train on labelled sources and on the target's images without labels; score on all of the target.

    Selected on the sources' "out" parts, or by metrics of the target's predictions that need no labels.
    """
    sources, targets = sources_and_targets(spec, envs)
    loaded = {domain.name: domain for domain in dataset.load([*sources, *targets])}
    pools = {name: _in_and_out(spec, loaded[name], envs.index(name)) for name in sources}
    whole = {f"{name}/all": _everything(loaded[name], envs.index(name)) for name in targets}
    return Split(
        labelled=tuple(pools[name][0] for name in sources),
        unlabelled=tuple(pool.without_labels() for pool in whole.values()),
        evaluated={f"{name}/out": pools[name][1] for name in sources} | whole,
        parts={
            "validation": [f"{name}/out" for name in sources],
            "test": list(whole),
            "oracle": list(whole),
        },
    )


def retrieval(spec: "RunSpec", dataset: Dataset, envs: Sequence[str]) -> Split:
    """Train on two domains without labels; each image of one retrieves those of its class in the other.

    ``--test_envs`` names the pair. Both directions are scored: on the images that were trained on
    (``--split official``, as published), or on each domain's "out" part (``--split held_out``). Of larger
    pools, ``--max_images`` random ones, drawn by the trial.
    """
    pair = list(spec.test_envs)
    if len(pair) != 2:
        choices = ", ".join(f"{i}={name}" for i, name in enumerate(envs))
        raise UsageError(f"retrieval needs two domains as --test_envs; choose two from: {choices}")
    trained: list[Pool] = []
    scored: dict[str, Pool] = {}
    for domain in dataset.load(pair):
        env = envs.index(domain.name)
        if spec.split == "held_out":
            inside, outside = (_few(pool, spec) for pool in _in_and_out(spec, domain, env))
            scored[f"{domain.name}/out"] = outside
        else:
            inside = scored[f"{domain.name}/all"] = _few(_everything(domain, env), spec)
        trained.append(inside)
    directions = [f"{a}>{b}" for a, b in (pair, pair[::-1])]
    return Split(
        labelled=(),
        unlabelled=tuple(pool.without_labels() for pool in trained),
        evaluated=scored,
        parts={"validation": [], "test": directions, "oracle": directions},
    )


TASKS: dict[str, Callable[["RunSpec", Dataset, Sequence[str]], Split]] = {
    "domain_generalization": domain_generalization,
    "single_source": single_source,
    "semi_supervised": semi_supervised,
    "domain_adaptation": domain_adaptation,
    "retrieval": retrieval,
}

GIVES: dict[str, tuple[str, ...]] = {
    "domain_generalization": (),
    "single_source": (),
    "semi_supervised": ("unlabelled", "strong", "strong_labelled"),
    "domain_adaptation": ("unlabelled", "strong", "strong_labelled"),
    "retrieval": ("unlabelled", "two"),
}
"""What a task's batches hold beyond labelled images, as methods declare it in ``needs``."""


def few_per_class(pool: Pool, count: int, seed: int) -> np.ndarray:
    """(n,) bool: ``count`` images of each class of a labelled pool, all of a class that has no more.

    Which ones depends on the seed and on their pixels, not on the order of files.
    """
    assert pool.labels is not None
    salt = str(seed).encode()
    digests = [
        hashlib.blake2b(pool.domain.images[i].tobytes(), digest_size=8, key=salt).digest()
        for i in pool.indices
    ]
    order = np.lexsort((np.frombuffer(b"".join(digests), np.uint64), pool.labels))
    ranked = pool.labels[order]
    place = np.arange(len(order)) - np.searchsorted(ranked, ranked)  # 0, 1, ... within each class
    chosen = np.zeros(len(order), bool)
    chosen[order[place < count]] = True
    return chosen


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


def _everything(domain: Domain, env: int) -> Pool:
    return Pool(domain, env, np.arange(len(domain)), domain.labels)


def _few(pool: Pool, spec: "RunSpec") -> Pool:
    """At most ``--max_images`` of a pool."""
    return pool.sample(spec.max_images, (spec.trial_seed, pool.env)) if spec.max_images else pool


def _some(labels: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if labels is None else labels[rows]


def _in_and_out(spec: "RunSpec", domain: Domain, env: int) -> tuple[Pool, Pool]:
    inside, outside = split(len(domain), spec.holdout_fraction, spec.trial_seed, env)
    if len(outside) == 0:
        share = f"--holdout_fraction {spec.holdout_fraction} of {len(domain)} images"
        raise UsageError(f"domain {domain.name}: {share} leaves none to validate on")
    first, second = (Pool(domain, env, part, domain.labels[part]) for part in (inside, outside))
    return first, second
