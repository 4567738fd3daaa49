"""Many small runs as one program: ``--vectorize K`` in a sweep.

Runs that differ in seeds and in hyper-parameters that are real numbers have networks of one shape. Their
weights are stacked, (K, ...) each, and one ``vmap`` computes all losses; every run keeps its own optimizer,
averages, records, folder and checkpoint, whose tensors are rows of the stacks. A batch stays a function of
its own run's (spec, step), and so does dropout. A run's numbers equal those of the run alone within the
rounding of float32.
"""

import copy
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from . import hparams, records, schedule
from .algorithm import Algorithm, Batch, Logs
from .build import check
from .course import Course, opened
from .errors import Unsuited
from .losses.precision import backward
from .machine import Machine
from .masks import Masks
from .spec import RunSpec
from .train import run

RTOL, OF_LARGEST = 1e-3, 1e-5
"""How far a gradient may be from that of the run alone, at the first update: as a share of its own largest
entry, and of that of all gradients (that of a bias in front of batch norm is rounding errors alone)."""


def kind(spec: RunSpec) -> str:
    """Equal for runs that differ in seeds and real hyper-parameters alone."""
    _, hp = check(spec)
    fixed = {name: value for name, value in hp.items() if not isinstance(value, float)}
    rest = replace(spec, trial_seed=0, seed=0, hparams_seed=0, hparams={})
    return json.dumps([rest.to_dict(), fixed], sort_keys=True)


def run_group(specs: Sequence[RunSpec], folder: Path, machine: Machine) -> None:
    """Train runs of one ``kind``, each in its folder of ``folder``; alone where it must be.

    A group that was killed goes on: runs whose checkpoints are of one step go on together.
    """
    reason = None
    with ExitStack() as stack:
        try:
            found = [stack.enter_context(opened(spec, folder / spec.run_id(), machine)) for spec in specs]
            courses = sorted((c for c in found if c is not None), key=lambda course: course.first)
            for _, together in itertools.groupby(courses, lambda course: course.first):
                _train(list(together))
        except Unsuited as error:
            reason = error
        except Exception:
            stack.close()  # before it is raised: it is no failure of each run, to be told in every folder
            raise
    if reason is not None:
        _tell(f"{specs[0].algorithm} on {specs[0].dataset} trains one run at a time: {reason}")
        for spec in specs:
            run(spec, folder / spec.run_id(), machine)


@cache
def _tell(text: str) -> None:
    """Print a line, once per process."""
    print(text, file=sys.stderr)


def _train(courses: Sequence[Course]) -> None:
    """The loop of ``train``, for all runs at once."""
    spec, first = courses[0].run.spec, courses[0].first
    assert spec.steps is not None
    program = Program(courses)
    evaluations = set(records.evaluation_steps(spec))
    for step in range(first, spec.steps):
        program.update(step, checked=step == first)
        if step in evaluations:
            for course in courses:
                course.evaluate(step)
        if step in evaluations or courses[0].save_is_due():
            for course in courses:
                course.save(step)
        if step in evaluations:
            for course in courses:
                course.state.meter.start()
    for course in courses:
        course.end()


class Program:
    """The losses of K runs as one function of stacked weights. The runs' own tensors become its rows."""

    def __init__(self, courses: Sequence[Course]) -> None:
        """``Unsuited`` where a method does more than a loss."""
        self.courses = courses
        self.algorithms = [course.run.algorithm for course in courses]
        method = type(self.algorithms[0])
        for member in ("update", "descend", "begin_epoch"):
            if getattr(method, member) is not getattr(Algorithm, member):
                raise Unsuited(f"its {member} is its own")
        if courses[0].run.spec.compile:
            raise Unsuited("its network is compiled")
        self.template = copy.deepcopy(self.algorithms[0])
        self.template._optims = []  # those of the runs; a method that resets them sets None
        self.masks = Masks(self.template, self.algorithms)
        self.params = _stack([dict(a.named_parameters()) for a in self.algorithms])
        self.buffers = _stack([dict(a.named_buffers()) for a in self.algorithms])
        for name, p in self.template.named_parameters():
            self.params[name].requires_grad_(p.requires_grad)
        self.hp = self._real_hyper_parameters()
        for course in courses:
            course.state.meter.sharing = len(courses)

    def _real_hyper_parameters(self) -> dict[str, Tensor]:
        """{name: (K,)} of those that differ."""
        columns = {name: [a.hp[name] for a in self.algorithms] for name in self.algorithms[0].hp}
        device = next(self.template.parameters()).device
        return {
            name: torch.tensor(values, device=device)
            for name, values in columns.items()
            if any(value != values[0] for value in values)
        }

    def update(self, step: int, checked: bool = False) -> None:
        """One update of every run; checked: ``Unsuited`` if one has other gradients than it has alone."""
        batches = [course.run.loader.batch(step) for course in self.courses]
        alone = [copy.deepcopy(algorithm) for algorithm in self.algorithms] if checked else []
        losses, logs, buffers = self._losses(batches, step)
        backward(losses.sum())
        with torch.no_grad():  # only now: batch norm's statistics are read by the backward pass
            for name, stacked in self.buffers.items():
                stacked.copy_(buffers[name])
        for k, algorithm in enumerate(alone):
            self._compare(k, algorithm, batches[k], step)
        for k, course in enumerate(self.courses):
            for p, stacked in zip(course.run.algorithm.parameters(), self.params.values(), strict=True):
                p.grad = None if stacked.grad is None else stacked.grad[k]
            schedule.apply(course.run.algorithm)
            for optim in course.run.algorithm.optims:
                optim.step()
            own = {name: values[k] for name, values in logs.items()}
            course.state.meter.add({"loss": losses[k].detach(), **own}, batches[k].images)
            for averager in course.state.averagers.values():
                averager.update(course.run.algorithm, step)
        for stacked in self.params.values():
            stacked.grad = None

    def _losses(self, batches: Sequence[Batch], step: int) -> tuple[Tensor, Logs, dict[str, Tensor]]:
        """(K,) losses and logs, and the buffers after the update."""
        for algorithm in (self.template, *self.algorithms):
            algorithm.step = step
        self.masks.draw(batches[0], [self._seed(course, step) for course in self.courses])
        one = vmap(self._loss, in_dims=(0, 0, 0, 0, 0, None))
        try:
            data = _stacked_fields(batches)
            losses, logs, buffers = one(
                self.params, self.buffers, self.hp, self.masks.drawn, data, batches[0]
            )
        except (RuntimeError, TypeError) as error:  # a random number, a branch on a value, a missing rule
            text = str(error)
            raise Unsuited("it draws random numbers" if "random" in text else text.split(". ")[0]) from None
        if self.template._optims is None:
            self.template._optims = []
            for algorithm in self.algorithms:
                algorithm.reset_optimizers()
        return losses, {name: values.detach() for name, values in logs.items()}, buffers

    def _loss(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        hp: Mapping[str, Tensor],
        masks: list[Tensor],
        data: Mapping[str, Tensor],
        batch: Batch,
    ) -> tuple[Tensor, Logs, dict[str, Tensor]]:
        """The loss of one run, its logs, and its buffers afterwards."""
        self.template.hp = {**self.algorithms[0].hp, **hp}
        self.masks.give(masks)
        own = copy.copy(batch)
        vars(own).update(data)
        weights = {f"algorithm.{name}": value for name, value in (*params.items(), *buffers.items())}
        loss, logs = functional_call(_Loss(self.template), weights, (own,))
        return loss, logs, {name: weights[f"algorithm.{name}"] for name in buffers}

    def _compare(self, k: int, alone: Algorithm, batch: Batch, step: int) -> None:
        """``Unsuited`` if run k has other gradients or buffers than ``alone``, its copy from before."""
        torch.manual_seed(self._seed(self.courses[k], step))
        alone.step = step
        backward(alone.loss(batch)[0])
        pairs = [
            (p.grad, None if stacked.grad is None else stacked.grad[k])
            for p, stacked in zip(alone.parameters(), self.params.values(), strict=True)
        ]
        slack = OF_LARGEST * max(float(own.abs().max()) for own, _ in pairs if own is not None)
        pairs += [(own, b[k]) for own, b in zip(alone.buffers(), self.buffers.values(), strict=True)]
        if not all(_close(found, own, slack) for own, found in pairs):
            raise Unsuited("its gradients come out differently")

    @staticmethod
    def _seed(course: Course, step: int) -> int:
        return hparams.seed_hash(course.run.seed, step)


class _Loss(nn.Module):
    """A method's loss as the forward pass, which ``functional_call`` wants."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        return self.algorithm.loss(batch)


def _stack(modules: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{name: (K, ...)}; the tensors become views of its rows."""
    stacked = {name: torch.stack([tensors[name].detach() for tensors in modules]) for name in modules[0]}
    for k, tensors in enumerate(modules):
        for name, tensor in tensors.items():
            tensor.data = stacked[name].detach()[k]
    return stacked


def _stacked_fields(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """{field: (K, ...)}: what differs from run to run. Domains of rows are the same for all."""
    names = [f.name for f in fields(Batch) if f.name not in ("d", "ud")]
    first = {name: getattr(batches[0], name) for name in names}
    return {
        name: torch.stack([getattr(batch, name) for batch in batches])
        for name, value in first.items()
        if isinstance(value, Tensor)
    }


def _close(found: Tensor | None, own: Tensor | None, slack: float) -> bool:
    """Whether two tensors agree up to rounding, on the scale of the largest entry."""
    if found is None or own is None:
        return found is own
    if not own.numel():
        return True
    own, found = own.detach().double(), found.detach().double()
    return bool((found - own).abs().max() <= RTOL * own.abs().max() + slack)
