"""What a checkpoint keeps of a class written for DomainBed (``domainbed.py``) beside its weights."""

import operator
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LIBRARIES = {"torch", "torchvision", "timm", "dgbench", *sys.stdlib_module_names}
INSTALLED = {"site-packages", "dist-packages"}


def held(value: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """(path, object) of all with a state of its own: modules, optimizers, schedules, objects of the user's.

    In attributes, lists and dictionaries; in an optimizer those that it is made around, as in SAM.
    """
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type | Enum):
        return
    seen.add(id(value))
    inside: Any = value
    if not isinstance(value, dict | list | tuple):
        if not saves(value) and not (hasattr(value, "__dict__") and of_user(value)):
            return
        yield path, value
        inside = vars(value)
        if saves(value) and not isinstance(value, nn.Module):
            inside = {key: part for key, part in inside.items() if isinstance(part, torch.optim.Optimizer)}
    items = inside.items() if isinstance(inside, dict) else enumerate(inside)
    for key, part in items:
        yield from held(part, f"{path}.{key}", seen)


def saves(value: Any) -> bool:
    """Whether it has torch's ``state_dict`` and ``load_state_dict``."""
    return hasattr(value, "load_state_dict")


def of_user(value: Any) -> bool:
    """Whether its class is neither installed nor Python's nor ours."""
    module = type(value).__module__
    file: str = getattr(sys.modules.get(module), "__file__", None) or ""
    return file != "" and module.split(".")[0] not in LIBRARIES and not INSTALLED & {*Path(file).parts}


def plain_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a checkpoint can keep."""
    plain = {name: _plain(value) for name, value in values.items() if name not in OF_TORCH}
    return {name: value for name, value in plain.items() if value is not UNKEPT}


OF_TORCH = {*vars(nn.Module()), "hparams"}
"""Attributes of a module that are no state of the method's."""
UNKEPT: Any = object()
SINGLE = (bool, int, float, str, Tensor, nn.Parameter)
SAFE = (dict, OrderedDict, list, tuple, torch.Size)
"""Values and containers that ``torch.load`` takes without running code."""


def _plain(value: Any) -> Any:
    """The value as types that a safe load takes, the same object where it has them; else ``UNKEPT``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        inside = [*value, *value.values()]
    elif type(value) in SAFE:
        inside = [*value]
    else:
        return value if value is None or type(value) in SINGLE else UNKEPT
    parts = [_plain(part) for part in inside]
    if any(part is UNKEPT for part in parts):
        return UNKEPT
    if type(value) in SAFE and all(map(operator.is_, parts, inside)):
        return value  # itself: attributes that share an object go on sharing it
    if isinstance(value, dict):
        return dict(zip(parts[: len(value)], parts[len(value) :], strict=True))
    return type(value)(parts)


def taken_up(old: Any, value: Any) -> Any:
    """A saved value, of the kind that the constructor gave to the attribute (``old``).

    A tensor that trains is filled where it is: an optimizer holds it.
    """
    if isinstance(old, np.generic) and type(old.item()) is type(value):
        return same if (same := type(old)(value)) == value else value
    if isinstance(old, Tensor) and isinstance(value, Tensor):
        return _filled(old, value)
    if isinstance(old, dict) and isinstance(value, dict):
        make = getattr(old, "default_factory", None) or (lambda: None)
        parts = {key: taken_up(old[key] if key in old else make(), part) for key, part in value.items()}
        if type(old) is not type(value):
            old.clear()
            old.update(parts)
            return old
        return value if all(map(operator.is_, parts.values(), value.values())) else type(value)(parts)
    if type(value) in SAFE and type(old) is type(value) and len(old) == len(value):
        items = list(map(taken_up, old, value))
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    return value


def _filled(old: Tensor, value: Tensor) -> Tensor:
    trains = old.is_leaf and old.requires_grad and value.requires_grad
    if not trains or old.shape != value.shape or old.dtype != value.dtype:
        return value
    with torch.no_grad():
        return old.copy_(value)
