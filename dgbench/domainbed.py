"""Runs classes written for DomainBed: ``--plugin my_method.py`` or ``--plugin my_method.py:MyMethod``.

The file stays as it is but for its imports:

    from dgbench.domainbed import ERM, Algorithm, networks

A class has ``__init__(self, input_shape, num_classes, num_domains, hparams)``,
``update(self, minibatches, unlabeled=None)`` that steps its own optimizers and returns numbers, and
``predict(self, x)``. Its ``hparams`` are DomainBed's shared ones and those of an optional class attribute

    hparams = {"my_gamma": 1.0, "my_beta": (0.5, lambda r: 10 ** r.uniform(-2, 0))}

(a default, or a default and DomainBed's way to draw it in a random search). Other optional class attributes
are those of ``dgbench.algorithm.Algorithm``: ``hparams_on``, ``tasks``, ``needs``, ``min_domains`` and
``quirks``. With ``needs = ("unlabelled",)`` a class runs under the tasks that have unlabelled images, and
``unlabeled`` is the list of these domains' images; otherwise it is None.

What a checkpoint keeps of a class: parameters, buffers, optimizers, and attributes that are numbers, texts,
tensors, or lists, tuples and dictionaries of these; of what the constructor makes also schedules of learning
rates, modules in plain lists, and the same attributes of objects of the user's own classes. Numpy's numbers
and dictionaries such as defaultdict come back as such where the constructor made them. What else changes in a
class, such as an array or a set, is not kept: hold it in a tensor or a list. Python's and numpy's random
numbers are seeded before the constructor and before each update, so a resumed run is the same run.
"""

import inspect
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import algorithm as ours
from . import domainbed_state as kept
from . import networks as backbones
from .errors import UsageError
from .networks.heads import mlp

PROBLEM = "problem"  # key under which ``hparams`` carry the backbone's settings to ``networks.Featurizer``


class Algorithm(nn.Module):
    """DomainBed's base class."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        num_domains: int,
        hparams: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.hparams = hparams

    def update(self, minibatches: Sequence[tuple[Tensor, Tensor]], unlabeled: Any = None) -> dict[str, Any]:
        """One step on [(x, y)] of every source domain; returns numbers to log."""
        raise NotImplementedError

    def predict(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        raise NotImplementedError


class networks:
    """What DomainBed's module of this name gives to a method."""

    Identity = nn.Identity

    @staticmethod
    def Featurizer(input_shape: tuple[int, int, int], hparams: Mapping[str, Any]) -> Any:
        """The run's backbone (``--backbone``), with ``n_outputs``, for images of this shape."""
        return backbones.featurizer(replace(hparams[PROBLEM], input_shape=tuple(input_shape)), hparams)

    @staticmethod
    def Classifier(in_features: int, out_features: int, is_nonlinear: bool = False) -> nn.Module:
        """A linear layer, or three."""
        return backbones.classifier(in_features, out_features, is_nonlinear)

    @staticmethod
    def MLP(n_inputs: int, n_outputs: int, hparams: Mapping[str, Any]) -> nn.Module:
        """Of hparams["mlp_width"], ["mlp_depth"] and ["mlp_dropout"]."""
        net = mlp(n_inputs, n_outputs, hparams["mlp_width"], hparams["mlp_depth"], hparams["mlp_dropout"])
        net.n_outputs = n_outputs  # type: ignore[assignment]
        return net


class ERM(Algorithm):
    """DomainBed's plain training, which most of its methods extend."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        num_domains: int,
        hparams: Mapping[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.featurizer: Any = networks.Featurizer(input_shape, hparams)
        self.classifier: Any = networks.Classifier(
            self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"]
        )
        self.network: Any = nn.Sequential(self.featurizer, self.classifier)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self.network.parameters(), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )

    def update(self, minibatches: Sequence[tuple[Tensor, Tensor]], unlabeled: Any = None) -> dict[str, Any]:
        x, y = (torch.cat(parts) for parts in zip(*minibatches, strict=True))
        loss = cross_entropy(self.predict(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)


class Adapted(ours.Algorithm):
    """One of DomainBed's classes behind the interface of dgbench; ``adapt`` makes a subclass for each."""

    method: ClassVar[type]
    quirks: ClassVar[Mapping[str, str]] = {
        "device": "a class of DomainBed's form returns numbers, so it waits for its device"
    }

    def __init__(self, problem: ours.Problem, hp: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)  # the class builds its own networks
        self.problem, self.hp, self.step = problem, hp, 0
        backbone = {"resnet18": problem.backbone == "resnet18", "freeze_bn": problem.freeze_bn}
        self._seed()
        given = _Given(self.method.__name__, {**FLAGS, **backbone, **hp, PROBLEM: problem})
        self.module = self.method(problem.input_shape, problem.num_classes, problem.num_domains, given)
        made = dict(kept.held(self.module))
        self._made = set(made)
        self._paths = [path for path, part in made.items() if isinstance(part, torch.optim.Optimizer)]
        self._children = set(self.module._modules)

    def update(self, batch: ours.Batch) -> ours.Logs:
        self._seed()
        minibatches = list(zip(batch.per_domain(batch.x), batch.per_domain(batch.y), strict=True))
        unlabeled = None if batch.u is None else list(batch.per_unlabelled(batch.u))
        returned = self.module.update(minibatches, unlabeled)
        for name in set(self.module._modules) - self._children:
            # Made anew in every update (Fish's clone): no part of the model that is averaged and saved.
            self.module.__dict__[name] = self.module._modules.pop(name)
        scalars = {name: torch.as_tensor(value, device=batch.x.device) for name, value in returned.items()}
        logs = {name: value.detach().float().mean() for name, value in scalars.items()}
        return {"loss": next(iter(logs.values()), torch.zeros((), device=batch.x.device)), **logs}

    def _seed(self) -> None:
        """Python's and numpy's random numbers, from the trainer's seed for the run or the step."""
        seed = torch.initial_seed() % 2**32
        random.seed(seed)
        np.random.seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.module.predict(x)

    @property
    def featurizer(self) -> Any:  # type: ignore[override]
        """The class's, or all of it: what pretrained weights are in."""
        return getattr(self.module, "featurizer", self.module)

    def features(self, x: Tensor) -> Tensor:
        if self.featurizer is self.module:
            raise UsageError(f"{self.method.__name__} has no attribute featurizer, so it gives no features")
        return self.featurizer(x)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those now in the attributes that the constructor filled; methods replace some while they run."""
        found = dict(kept.held(self.module))
        return [found[path] for path in self._paths]

    @property
    def optims(self) -> list[torch.optim.Optimizer]:
        return self.optimizers()

    @property
    def _device(self) -> torch.device | None:
        return next((p.device for p in self.module.parameters()), None)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Buffers that an update made, or gave another shape (GroupDRO's weights), are made room for."""
        parts = dict(self.named_modules())
        for key, value in state_dict.items():
            path, _, name = key.rpartition(".")
            part = parts.get(path)
            if part is None or not path or name == "_extra_state" or name in part._parameters:
                continue
            old = part._buffers.get(name)
            if old is None or old.shape != value.shape:
                part.__dict__.pop(name, None)
                part.register_buffer(name, torch.empty_like(value, device=self._device))
        return super().load_state_dict(state_dict, *args, **kwargs)

    def get_extra_state(self) -> Tensor:
        """The attributes that are no parameters or buffers, as bytes: a state dict holds tensors."""
        file = io.BytesIO()
        state = {
            path: kept.plain_attributes(part.state_dict() if saves else vars(part))
            for path, part, saves in self._stateful()
        }
        torch.save(state, file)
        return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        content = io.BytesIO(state.cpu().numpy().tobytes())
        saved = torch.load(content, map_location=self._device, weights_only=True)
        for path, part, saves in self._stateful():
            values = saved.get(path, {})
            if saves:
                part.load_state_dict({**part.state_dict(), **values})
            else:
                own = vars(part)
                own.update({name: kept.taken_up(own.get(name), value) for name, value in values.items()})

    def _stateful(self) -> Iterator[tuple[str, Any, bool]]:
        """(path, object, whether it saves itself): the class, those of its parts that the user wrote, and the
        schedules, modules in plain lists and objects of the user's that the constructor made."""
        for path, part in self.module.named_modules():
            if not path or kept.of_user(part):
                yield path, part, False
        parts = {*map(id, self.module.modules())}
        for path, part in kept.held(self.module):
            if path in self._made and id(part) not in parts and not isinstance(part, torch.optim.Optimizer):
                yield path, part, kept.saves(part)


def is_method(value: Any) -> bool:
    """Whether this is a class with DomainBed's constructor, ``update`` and ``predict``."""
    if not (isinstance(value, type) and issubclass(value, nn.Module)) or issubclass(value, ours.Algorithm):
        return False
    if not (hasattr(value, "update") and hasattr(value, "predict")):
        return False
    signature = inspect.signature(value)
    if issubclass(value, Algorithm):  # whatever it names its parameters
        return _takes_four(signature)
    parameters = list(signature.parameters.values())
    plain = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(plain) >= 4 and all(p.default is not p.empty for p in plain[4:])


def adapt(cls: type) -> type[Adapted]:
    """The dgbench algorithm that runs one of DomainBed's classes; it has the same name."""
    members = {name: getattr(cls, name) for name in DECLARED if hasattr(cls, name)}
    if "unlabelled" in members.get("needs", ()):
        members.setdefault("tasks", ("domain_adaptation", "semi_supervised"))
    members["quirks"] = {**Adapted.quirks, **getattr(cls, "quirks", {})}
    own = _declared(getattr(cls, "hparams", {}))
    members["hparams_on"] = {key: _declared(values) for key, values in getattr(cls, "hparams_on", {}).items()}
    about = {"__doc__": cls.__doc__, "__module__": cls.__module__}
    return type(cls.__name__, (Adapted,), {**members, **about, "method": cls, "hparams": own})


DECLARED = ("tasks", "needs", "min_domains")
FLAGS = {
    "lars": False,
    "linear_steps": 500,
    "resnet50_augmix": False,
    "dinov2": False,
    "vit": False,
    "vit_attn_tune": False,
    "vit_dropout": 0.0,
}
"""DomainBed's shared hyper-parameters that dgbench has no use for, as a class may read them."""


@dataclass(frozen=True)
class Drawn:
    """A range given as DomainBed gives it: a function of a numpy RandomState."""

    function: Callable[[np.random.RandomState], Any]

    def draw(self, r: np.random.RandomState) -> Any:
        value = self.function(r)
        return value.item() if isinstance(value, np.generic) else value

    def __str__(self) -> str:
        return "drawn by a function"


def _takes_four(signature: inspect.Signature) -> bool:
    """Whether a call with DomainBed's four arguments fits."""
    try:
        signature.bind("input_shape", "num_classes", "num_domains", "hparams")
    except TypeError:
        return False
    return True


class _Given(dict[str, Any]):
    """Hyper-parameters as a class sees them; a missing one is explained."""

    def __init__(self, owner: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.owner = owner

    def __missing__(self, key: str) -> Any:
        known = ", ".join(sorted(set(self) - {PROBLEM}))
        raise UsageError(
            f"{self.owner} reads the hyper-parameter {key!r} but does not declare it; "
            f"give the class an attribute hparams = {{{key!r}: default}}, or choose from: {known}"
        )


def _declared(given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{name: default, or (default, range), the range possibly a function} -> {name: (default, range)}."""
    pairs = {
        name: value if isinstance(value, tuple) and len(value) == 2 else (value, None)
        for name, value in given.items()
    }
    return {name: (own, Drawn(how) if callable(how) else how) for name, (own, how) in pairs.items()}
