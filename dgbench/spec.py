"""RunSpec: everything that decides a run's numbers.

The same dataclass is the flags of ``dgbench.train``, an entry of a sweep, the head of every record and the
run's name. Paths, devices and worker counts are not in it: moving the data never changes a run.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from . import hparams, registry
from .errors import UsageError, unknown
from .tasks import TASKS

AVERAGING = ("ema", "swa", "swad", "swad_paper")
SPLITS = ("official", "held_out")
PRECISIONS = ("float32", "bf16")
OF_A_TASK = {
    **dict.fromkeys(("labels_per_class", "label_split"), "semi_supervised"),
    **dict.fromkeys(("split", "max_images"), "retrieval"),
}
"""{field: the task in which alone it has a meaning}."""


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RunSpec:
    """One run. ``None`` means the data set's default until ``resolved`` fills it in."""

    dataset: str = field(metadata={"help": "a data set; python -m dgbench.list datasets"})
    algorithm: str = field(metadata={"help": "a method; python -m dgbench.list algorithms"})
    task: str = _flag("domain_generalization", f"one of: {', '.join(TASKS)}")
    test_envs: tuple[str, ...] = _flag((), "target domains, by index or name")
    source_envs: tuple[str, ...] = _flag((), "source domains; default: all that are not targets")
    trial_seed: int = _flag(0, "seed of splits, constructions and random hyper-parameters")
    hparams_seed: int = _flag(0, "0: default hyper-parameters; any other: that random draw")
    seed: int = _flag(0, "seed of everything else, together with the trial")
    hparams: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "chosen values as JSON, e.g. '{\"lr\": 1e-4}'"}
    )
    steps: int | None = _flag(None, "number of updates; default: the data set's")
    checkpoint_freq: int | None = _flag(None, "evaluate every so many updates; default: the data set's")
    holdout_fraction: float = _flag(0.2, 'share of a domain in its "out" part')
    averaging: tuple[str, ...] = _flag(
        (), f"weights evaluated beside the raw ones: {', '.join(AVERAGING)}, or NAME:OPTION=VALUE"
    )
    backbone: str | None = _flag(None, "network; default: the data set's")
    pretrained: str | None = _flag(None, "name of the weights, or none; default: none for small networks")
    freeze_bn: bool | None = _flag(None, "freeze batch-norm statistics; default: when pretrained")
    image_size: int | None = _flag(None, "pixels, for data sets of image files")
    labels_per_class: int = _flag(10, "semi_supervised: labelled images per class and source domain")
    label_split: str = _flag("", "semi_supervised: content of the file that says which images are labelled")
    split: str = _flag("official", f"retrieval: one of {', '.join(SPLITS)}; images scored on")
    frozen: bool = _flag(False, "train on features of the frozen backbone, computed once; no augmentation")
    compile: bool = _flag(False, "compile the network; other rounding, and minutes at the start")
    max_images: int = _flag(0, "retrieval: most images of a domain in training and in scoring; 0: all")
    precision: str = _flag("float32", f"one of: {', '.join(PRECISIONS)}")

    def resolved(self, data_dir: Path | None = None) -> "RunSpec":
        """The same run with names checked and every default filled in; ``UsageError`` for bad values."""
        dataset: Any = registry.find("datasets", self.dataset)
        envs = dataset.domain_names(data_dir)
        if self.task not in TASKS:
            raise unknown("task", self.task, TASKS)
        for name in self.averaging:
            if name.partition(":")[0] not in AVERAGING:
                raise unknown("averaging", name.partition(":")[0], AVERAGING)
        for name, choices in {"precision": PRECISIONS, "split": SPLITS}.items():
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        fixed = dataset.input_shape is not None
        if fixed and self.image_size not in (None, 0):
            raise UsageError(f"--image_size has no meaning for {self.dataset}, whose images have one size")
        backbone = self.backbone or dataset.backbone
        freq = dataset.checkpoint_freq if self.checkpoint_freq is None else self.checkpoint_freq
        pretrained = self.pretrained or _default_weights(backbone)
        values: dict[str, Any] = {
            "dataset": dataset.__name__,
            "algorithm": registry.canonical("algorithms", self.algorithm),
            "test_envs": domains(self.test_envs, envs),
            "source_envs": domains(self.source_envs or self._source(dataset, envs), envs),
            "steps": dataset.steps if self.steps is None else self.steps,
            "checkpoint_freq": freq,
            "averaging": tuple(sorted(set(self.averaging))),
            "backbone": backbone,
            "pretrained": pretrained,
            "freeze_bn": pretrained != "none" if self.freeze_bn is None else self.freeze_bn,
            "image_size": 0 if fixed else self.image_size or _image_size(backbone) or dataset.image_size,
            "hparams": self._hparams(dataset),
        }
        spec = replace(self, **values)
        spec._check()
        return spec

    def _hparams(self, dataset: Any) -> Mapping[str, Any]:
        """Floats where a float is declared: 0 and 0.0 name one run."""
        if not any(type(value) is int for value in self.hparams.values()):
            return self.hparams  # a method's file imports torch
        method: Any = registry.find("algorithms", self.algorithm)
        return hparams.checked(method.specialised(self.hparams), dataset, self.hparams)

    def _source(self, dataset: Any, envs: tuple[str, ...]) -> tuple[str, ...]:
        """The first domain, for one source of a data set that has a domain for validation."""
        return envs[:1] if self.task == "single_source" and dataset.validation else ()

    def _check(self) -> None:
        assert self.steps is not None and self.checkpoint_freq is not None and self.image_size is not None
        if self.image_size < 0:
            raise UsageError(f"--image_size {self.image_size} must be a number of pixels")
        if self.steps < 1 or self.checkpoint_freq < 1:
            raise UsageError("--steps and --checkpoint_freq must be at least 1")
        if not 0 < self.holdout_fraction < 1:
            raise UsageError(f"--holdout_fraction {self.holdout_fraction} is not between 0 and 1")
        if self.labels_per_class < 1:
            raise UsageError(f"--labels_per_class {self.labels_per_class} must be at least 1")
        if self.max_images < 0:
            raise UsageError(f"--max_images {self.max_images} must not be negative")
        for name, task in OF_A_TASK.items():
            if name in self.chosen() and self.task != task:
                raise UsageError(
                    f"--{name} {getattr(self, name)} has no meaning here; choose from: --task {task}"
                )
        if self.hparams_seed < 0 or self.trial_seed < 0:
            raise UsageError("--trial_seed and --hparams_seed must not be negative")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSpec":
        """The inverse of ``to_dict``; unknown keys are an error, missing ones take their default."""
        known = {f.name: f for f in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown("field of a run", name, known)
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name in ("trial_seed", "hparams_seed", "seed"):
            if not isinstance(plain.get(name, 0), int):
                raise TypeError(f"{name} {plain[name]!r} is no number")
        return cls(**plain)

    def chosen(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != _default(f)}

    def run_id(self) -> str:
        """A readable prefix and 8 hex digits of a hash of the fields that differ from their defaults.

        A new field with a default therefore changes the name of no earlier run.
        """
        digest = hashlib.sha256(json.dumps(self.chosen(), sort_keys=True).encode()).hexdigest()[:8]
        targets, sources = "+".join(self.test_envs), "+".join(self.source_envs)
        where = sources if self.task == "single_source" else targets
        if self.task == "domain_adaptation" and sources:
            where = f"{sources}_to_{targets}"
        safe = "".join(c if c.isalnum() or c in "+-." else "_" for c in where)[:40]
        seeds = f"t{self.trial_seed}-h{self.hparams_seed}"
        return f"{self.dataset}-{self.algorithm}-{safe}-{seeds}-{digest}"


def _default(f: Any) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _default_weights(backbone: str) -> str:
    if backbone.startswith("timm:"):
        return "default"
    return "IMAGENET1K_V1" if backbone.startswith("resnet") else "none"


def _image_size(backbone: str) -> int | None:
    if not backbone.startswith("timm:"):
        return None
    from .networks import image_size  # imports torch

    return image_size(backbone)


def is_soup(averaging: Iterable[str]) -> bool:
    """Whether this is the mean of several runs' weights (``dgbench.soup``), and no run of its own."""
    return any(name.startswith("soup") for name in averaging)


def domains(names: tuple[str, ...], envs: tuple[str, ...]) -> tuple[str, ...]:
    """Domains by index or name, each once, in the data set's order."""
    return tuple(sorted({domain(name, envs) for name in names}, key=envs.index))


def domain(name: str, envs: tuple[str, ...]) -> str:
    """A domain by index or by name (if need be, compared without case)."""
    if name in envs:
        return name
    by_lower = {env.lower(): env for env in envs}
    if name.lower() in by_lower:  # a domain may itself be called "15"
        return by_lower[name.lower()]
    if name.isdecimal() and int(name) < len(envs):
        return envs[int(name)]
    raise unknown("domain", name, [f"{i}={env}" for i, env in enumerate(envs)])
