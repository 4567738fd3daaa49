"""The interface of a method: it knows tensors; the trainer knows everything else.

A method is one file in ``algorithms/``: a subclass that declares its hyper-parameters and, most often,
overrides ``loss`` alone. It never calls ``.item()``, ``.cuda()``, ``print`` or ``open``, and never sees a
data set's name or the target.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import networks, schedule
from .hparams import Declared
from .losses.precision import backward

Logs = dict[str, Tensor]
MULTI_SOURCE = ("domain_generalization", "semi_supervised", "domain_adaptation")
"""The tasks with labelled images of several domains, for methods that compare domains."""


@dataclass(frozen=True)
class Problem:
    """What a method may know before it sees a batch."""

    input_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    num_domains: int  # source domains in a batch; the two domains of retrieval
    num_steps: int
    steps_per_epoch: int
    labelled_sizes: tuple[int, ...] = ()  # images per labelled pool
    unlabelled_sizes: tuple[int, ...] = ()
    backbone: str = "mnist_cnn"
    pretrained: str = "none"
    freeze_bn: bool = False
    frozen: bool = False  # the input is features of the frozen backbone, (F, 1, 1)
    class_names: tuple[str, ...] = ()  # where the data set has them
    unlabelled_are_sources: bool = True  # the unlabelled domains are the source domains, in their order


@dataclass
class Batch:
    """A flat, domain-major mini-batch: N = D * B rows, rows [i*B, (i+1)*B) are source domain i.

    Unlabelled rows, where the method needs them, are as many for each of U domains: M = U * B', in the same
    order. Under ``retrieval`` there are no labelled rows (N = 0).
    """

    x: Tensor  # (N, C, H, W) float
    y: Tensor  # (N,) int64
    d: Tensor  # (N,) int64, source domain
    idx: Tensor  # (N,) int64, index in the domain's pool
    num_domains: int  # D
    x2: Tensor | None = None  # (N, C, H, W) strong view of x
    u: Tensor | None = None  # (M, C, H, W) unlabelled, weak view; of retrieval, a draw of its view
    u2: Tensor | None = None  # (M, C, H, W) the same images: strong view; of retrieval, a second draw
    ud: Tensor | None = None  # (M,) int64, domain of u among the unlabelled ones
    uidx: Tensor | None = None  # (M,) int64, index of u in the domain's pool
    num_unlabelled: int = 0  # U

    def per_domain(self, values: Tensor) -> Tensor:
        """(N, ...) -> (D, B, ...): a view, no copy."""
        return values.view(self.num_domains, -1, *values.shape[1:])

    def per_unlabelled(self, values: Tensor) -> Tensor:
        """(M, ...) -> (U, B', ...): a view, no copy."""
        return values.view(self.num_unlabelled, -1, *values.shape[1:])

    @property
    def images(self) -> int:
        """How many images it holds, several views of one counted once."""
        return len(self.x) + (0 if self.u is None else len(self.u))

    @property
    def members(self) -> Tensor:
        """(D, N) bool: the rows of each source domain, for ``losses.sets``."""
        return self.d == torch.arange(self.num_domains, device=self.d.device)[:, None]


class Algorithm(nn.Module):
    """Base of every method: a featurizer, a classifier, one loss, one optimizer.

    Shapes: N rows in a batch, C classes, F features.
    """

    hparams: ClassVar[Declared] = {}
    """{name: (default, range)}, names as in DomainBed where it has the method."""
    hparams_on: ClassVar[Mapping[str, Declared]] = {}
    """{data set, or ``hparams.SMALL`` or ``FOLDERS``: {name: (default, range)}}: what differs there."""
    tasks: ClassVar[tuple[str, ...]] = (*MULTI_SOURCE, "single_source")
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of the batch beyond x and y: "unlabelled" (u, ud, uidx), "strong" (u2), "strong_labelled" (x2),
    "two" (u2)."""
    min_domains: ClassVar[int] = 1
    """Least number of source domains that the method is defined for."""

    own_classifier: ClassVar[bool] = False
    """Whether its form is the method's own, so that ``nonlinear_classifier`` has no meaning."""

    erm_when: ClassVar[Mapping[str, Any] | None] = None
    """Values of ``hparams`` under which the gradients are those of plain training; a contract test."""

    quirks: ClassVar[Mapping[str, str]] = {}
    """Promises of the contract that the published method breaks: {"unmoved": pattern of parameter names that
    never train, "unread": pattern of hyper-parameters that it declares and ignores, "batch": why evaluation
    depends on the batch, "device": why it calls ``.item()`` and the like}."""

    warnings: Sequence[str] = ()
    """What a user of this instance should know, one line each, for the run's log."""

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__()
        self.problem, self.hp = problem, hp
        self.step = 0  # set by the trainer before each update
        self.featurizer = networks.featurizer(problem, hp)
        self.classifier = networks.classifier(
            self.featurizer.n_outputs, problem.num_classes, hp["nonlinear_classifier"]
        )
        self._optims: list[torch.optim.Optimizer] | None = None

    @classmethod
    def specialised(cls, chosen: Mapping[str, Any]) -> "type[Algorithm]":
        """The class for these chosen hyper-parameters: a method on top of another one is composed with it."""
        return cls

    @classmethod
    def needed(cls, hp: Mapping[str, Any]) -> tuple[str, ...]:
        """``needs`` with these hyper-parameters."""
        return cls.needs

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, F)."""
        return self.featurizer(x)

    def apart(self, network: Callable[[Tensor], Tensor], x: Tensor, groups: int) -> Tensor:
        """``network(x)`` of consecutive groups of rows, equal in size, such as the domains of a batch.

        Where batch norm trains, a call for each group, whose statistics are its own; else one for all.
        """
        if not self.batch_norm_trains:
            return network(x)
        return torch.cat([network(rows) for rows in x.chunk(groups)])

    @cached_property
    def batch_norm_trains(self) -> bool:
        """Whether any batch norm takes its statistics from the batch in training; first asked there."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """What evaluation reads: (N, C, H, W) -> logits (N, num_classes); of retrieval, embeddings (N, F)."""
        return self.classifier(self.features(x))

    def pseudo_labels(self, logits: Tensor) -> Tensor:
        """What images with these logits (N, C) would be taken for: (N,)."""
        return logits.argmax(1)

    def keep(self, logits: Tensor) -> Tensor | None:
        """Which unlabelled images (N,) would be trained on, given logits (N, C); None: no pseudo-labels.

        Evaluation records pseudo-label accuracy from it. It changes no state.
        """
        return None

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The objective as a scalar, and scalars to log beside it."""
        raise NotImplementedError

    def update(self, batch: Batch) -> Logs:
        """One step of training; returns detached scalars to log."""
        return self.learn(*self.loss(batch))

    def learn(self, loss: Tensor, logs: Logs) -> Logs:
        """Descend the loss by every optimizer; returns what to log, detached."""
        self.descend(loss)
        return {name: value.detach() for name, value in {"loss": loss, **logs}.items()}

    def descend(self, loss: Tensor, *optims: torch.optim.Optimizer) -> None:
        """Zero the gradients, back-propagate, step ``optims`` (none given: every optimizer)."""
        for optim in optims or self.optims:
            optim.zero_grad(set_to_none=True)
        backward(loss)
        for optim in optims or self.optims:
            optim.step()

    def annealed(self, weight: str, start: str, before: float = 0.0) -> float:
        """The penalty weight in force: ``hp[weight]`` from update ``hp[start]`` on, where Adam restarts."""
        value = self.hp[weight]
        if self.step == self.hp[start]:
            self.reset_optimizers()
        return value if self.step >= self.hp[start] else before

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Fresh optimizers; called once, and again after ``reset_optimizers``."""
        return [self.optimizer(self.parameters())]

    def optimizer(
        self, params: Iterable[Tensor], lr: float | None = None, *others: dict[str, Any]
    ) -> torch.optim.Optimizer:
        """The run's optimizer with its learning rate and weight decay: Adam unless it says otherwise.

        Those of the featurizer among ``params`` have the learning rate featurizer_lr * lr; others: more
        groups of parameters, with what is different for them.
        """
        lr, decay = self.hp["lr"] if lr is None else lr, self.hp["weight_decay"]
        params, factor = list(params), self.hp["featurizer_lr"]
        groups: list[dict[str, Any]] = [{"params": params}]
        if factor != 1:
            known = {id(p) for p in self.featurizer.parameters()}
            slow, rest = ([p for p in params if (id(p) in known) == inside] for inside in (True, False))
            groups = [{"params": slow, "lr": lr * factor}, {"params": rest}]
        groups += others
        if self.hp["optimizer"] == "adamw":
            return torch.optim.AdamW(groups, lr=lr, weight_decay=decay, fused=self._fused)
        if self.hp["optimizer"] == "sgd":
            own = {"momentum": self.hp["momentum"], "nesterov": self.hp["nesterov"]}
            return torch.optim.SGD(groups, lr=lr, weight_decay=decay, fused=self._fused, **own)
        return self.adam(groups, lr)

    def adam(self, params: Any, lr: float | None = None, **kwargs: Any) -> torch.optim.Optimizer:
        """Adam with (L2) weight decay, as DomainBed uses it; adversaries keep it whatever the run's is."""
        kwargs.setdefault("weight_decay", self.hp["weight_decay"])
        return torch.optim.Adam(params, lr=self.hp["lr"] if lr is None else lr, fused=self._fused, **kwargs)

    @property
    def _fused(self) -> bool:
        """Whether torch's fused optimizers, several times as fast, are safe: gradients are from ``backward``.

        On a CPU they read a weight and its gradient as flat memory; only ``backward`` gives both one layout.
        """
        plain = type(self).update is Algorithm.update and type(self).descend is Algorithm.descend
        return plain and next(self.parameters()).device.type in ("cpu", "cuda")

    @property
    def optims(self) -> list[torch.optim.Optimizer]:
        """The optimizers in use; made at first use, after the trainer has placed the parameters."""
        if self._optims is None:
            self._optims = list(self.optimizers())
            schedule.apply(self)  # a method may restart them within an update
        return self._optims

    def reset_optimizers(self) -> None:
        """Forget the optimizers' state, as methods with an annealed penalty do."""
        self._optims = None

    @property
    def epoch_began(self) -> int:
        """The first update of this epoch."""
        return self.step - self.step % self.problem.steps_per_epoch

    def begin_epoch(self, pools: Sequence[Any]) -> None:
        """Called before the first update of each epoch; a pool yields its images in the evaluation view."""
