"""Hyper-parameters: ranges, the shared ones, merging, random search.

A declaration is ``{name: (default, range)}``; the range says how a random search draws the value, an
``Option`` also which values are legal. ``None`` as a range means: never drawn. Elsewhere any value of the
default's type is taken: the ranges are of a search, no limits; those of shared ones are in ``LIMITS``.
Draws are DomainBed's to the digit: one stream per name, seeded by the MD5 of (seeds, name), so adding a
hyper-parameter never changes the draw of another (DomainBed, hparams_registry.py).
"""

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .errors import UsageError, unknown


class Range(Protocol):
    """How a value is drawn."""

    def draw(self, r: np.random.RandomState) -> Any: ...


@dataclass(frozen=True)
class Uniform:
    """U(low, high); cut to an integer if ``integer``."""

    low: float
    high: float
    integer: bool = False

    def draw(self, r: np.random.RandomState) -> float | int:
        value = r.uniform(self.low, self.high)
        return int(value) if self.integer else float(value)

    def __str__(self) -> str:
        text = f"U({self.low:g}, {self.high:g})"
        return f"int({text})" if self.integer else text


@dataclass(frozen=True)
class LogUniform:
    """base ** U(low, high); cut to an integer if ``integer``."""

    low: float
    high: float
    base: int = 10
    integer: bool = False

    def draw(self, r: np.random.RandomState) -> float | int:
        value = self.base ** r.uniform(self.low, self.high)
        return int(value) if self.integer else float(value)

    def __str__(self) -> str:
        text = f"{self.base}^U({self.low:g}, {self.high:g})"
        return f"int({text})" if self.integer else text


@dataclass(frozen=True)
class Choice:
    """One of ``options`` with equal probability; other values are legal too."""

    options: tuple[Any, ...]

    def draw(self, r: np.random.RandomState) -> Any:
        value = r.choice(self.options)
        return value.item() if isinstance(value, np.generic) else value

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"


@dataclass(frozen=True)
class Option:
    """A named choice of the method (a variant): checked, never drawn."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.options))


Declared = Mapping[str, tuple[Any, Range | Option | None]]

SCHEDULES = ("constant", "cosine", "cosine_epoch", "inverse")
OPTIMIZERS = Option(("adam", "adamw", "sgd"))

SHARED: Declared = {
    "lr": (5e-5, LogUniform(-5, -3.5)),
    "weight_decay": (0.0, LogUniform(-6, -2)),
    "batch_size": (32, LogUniform(3, 5.5, base=2, integer=True)),  # per source domain
    "resnet_dropout": (0.0, Choice((0.0, 0.1, 0.5))),
    "nonlinear_classifier": (False, None),
    "class_balanced": (False, None),
    "data_augmentation": (True, None),
    "optimizer": ("adam", OPTIMIZERS),
    "momentum": (0.0, None),  # of sgd
    "nesterov": (False, None),
    "featurizer_lr": (1.0, None),  # times lr
    "lr_schedule": ("constant", Option(SCHEDULES)),
    "lr_gamma": (1e-3, None),  # of the schedule "inverse"
}
"""What every method has, for 224-pixel images: DomainBed's, and the optimizer, which is Adam there."""

LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("lr", "weight_decay", "featurizer_lr", "lr_gamma"), (0.0, math.inf)),
    **dict.fromkeys(("momentum", "resnet_dropout"), (0.0, 1.0)),
    **dict.fromkeys(("batch_size", "unlabelled_ratio"), (1.0, math.inf)),
}
"""(least value, the first one too large) of shared ones: what else a user may give has no meaning."""

UNLABELLED: Declared = {"unlabelled_ratio": (1, None)}
"""What methods that need unlabelled images have besides: their rows per domain over ``batch_size``."""

RETRIEVAL: Declared = {
    "lr": (2e-4, LogUniform(-4.5, -2)),
    "weight_decay": (1e-4, None),
    "batch_size": (64, None),
    "optimizer": ("sgd", OPTIMIZERS),
    "momentum": (0.9, None),
    "lr_schedule": ("cosine_epoch", Option(SCHEDULES)),
}
"""UCDIR's training, from MoCo-v2's weights, for all rows of its tables; a method's ``hparams``."""

RETRIEVAL_SCRATCH: Declared = {
    "lr": (1e-3, LogUniform(-4, -2)),
    "weight_decay": (0.0, None),
    "optimizer": ("adam", OPTIMIZERS),
    "momentum": (0.0, None),
}
"""What is different on small images, where all start from random weights; ours."""

SMALL_IMAGES: Declared = {
    "lr": (1e-3, LogUniform(-4.5, -2.5)),
    "weight_decay": (0.0, None),
    "batch_size": (64, LogUniform(3, 9, base=2, integer=True)),
}
"""What DomainBed changes for 28-pixel images; a data set's ``hparams``."""


MISSING_PATTERNS = ("Digits_MP", "MNIST", "MNIST_MP", "MNIST_UP", "MNIST_UP_Anti")
SMALL, FOLDERS = "small images", "image folders"
"""Keys of a method's ``hparams_on``: every data set with an ``input_shape``; every other one."""


def on_small_images(declared: Declared) -> dict[str, Declared]:
    """``hparams_on`` of a method with other values on images of 28 pixels (DomainBed's) or fewer."""
    return {SMALL: declared}


def on_missing_patterns(declared: Declared) -> dict[str, Declared]:
    """``hparams_on`` of a method for which the RCL paper (Duboudin et al.) has other values on its data."""
    return dict.fromkeys(MISSING_PATTERNS, declared)


def on_office(lr: float, lr_gamma: float, weight_decay: float) -> dict[str, Declared]:
    """``hparams_on`` of an adaptation method on Office-31 and Office-Home: TLL's optimizer and schedule."""
    values: Declared = {
        "optimizer": ("sgd", OPTIMIZERS),
        "lr": (lr, LogUniform(-3.5, -1.5)),
        "featurizer_lr": (0.1, None),
        "lr_schedule": ("inverse", Option(SCHEDULES)),
        "lr_gamma": (lr_gamma, None),
        "momentum": (0.9, None),
        "nesterov": (True, None),
        "weight_decay": (weight_decay, None),
    }
    return {"Office31": values, "OfficeHome": values}


def seed_hash(*args: object) -> int:
    """A seed from the text of a tuple: MD5 modulo 2^31, as DomainBed's ``misc.seed_hash``."""
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


def declared(algorithm: type, dataset: type) -> dict[str, tuple[Any, Any]]:
    """A method's hyper-parameters; later wins: shared, the data set's, the method's, ``hparams_on``."""
    on: Mapping[str, Declared] = algorithm.hparams_on  # type: ignore[attr-defined]
    kind = FOLDERS if getattr(dataset, "input_shape", None) is None else SMALL
    return {
        **SHARED,
        **(UNLABELLED if "unlabelled" in getattr(algorithm, "needs", ()) else {}),
        **dataset.hparams,  # type: ignore[attr-defined]
        **algorithm.hparams,  # type: ignore[attr-defined]
        **on.get(kind, {}),
        **on.get(dataset.__name__, {}),
    }


def defaults(declared: Declared) -> dict[str, Any]:
    """{name: default}."""
    return {name: default for name, (default, _) in declared.items()}


def resolve(
    algorithm: type, dataset: type, chosen: Mapping[str, Any], hparams_seed: int = 0, trial_seed: int = 0
) -> dict[str, Any]:
    """The values of a run: defaults (seed 0) or a random draw, then ``chosen`` over them.

    Raises ``UsageError`` for an unknown name, a value of another type, one outside its options or limits.
    """
    known = declared(algorithm, dataset)
    values = defaults(known)
    if hparams_seed != 0:
        seed = seed_hash(hparams_seed, trial_seed)
        for name, (_, range_) in known.items():
            if hasattr(range_, "draw"):
                values[name] = range_.draw(np.random.RandomState(seed_hash(seed, name)))
    return values | checked(algorithm, dataset, chosen)


def checked(algorithm: type, dataset: type, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen values, integers for floats as floats; ``UsageError`` as in ``resolve``."""
    known, values = declared(algorithm, dataset), {}
    for name, value in chosen.items():
        if name not in known:
            raise unknown(f"hyper-parameter of {algorithm.__name__}", name, sorted(known))
        values[name] = _checked(name, value, *known[name])
    return values


def _checked(name: str, value: Any, default: Any, range_: Any) -> Any:
    if isinstance(range_, Option) and value not in range_.options:
        raise UsageError(f"hyper-parameter {name}={value!r} is not a choice; choose from: {range_}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(name, value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        wanted = type(default).__name__
        raise UsageError(
            f"hyper-parameter {name}={value!r} has the wrong type; give a value of type {wanted}"
        )
    return value


def _check_number(name: str, value: float) -> None:
    if not abs(value) <= sys.float_info.max:  # infinite, too large an integer, or not a number
        raise UsageError(f"hyper-parameter {name}={value} is not a finite number")
    least, limit = LIMITS.get(name, (-math.inf, math.inf))
    if not least <= value < limit:
        wanted = f"at least {least:g}" + (f" and below {limit:g}" if limit < math.inf else "")
        raise UsageError(f"hyper-parameter {name}={value!r} is out of range; give a value of {wanted}")
