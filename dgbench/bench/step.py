"""What the harness adds to a step, and to an epoch with its evaluations."""

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .. import averaging, hparams, registry
from ..algorithm import Problem
from ..checkpoint import State
from ..dataset import Domain
from ..evaluate import accuracy
from ..loaders import Loader
from ..meter import Meter
from ..stream import Draw
from ..tasks import Pool
from ..train import update
from .ratio import Ratio, alternate


class Ours:
    """ERM's updates and evaluations on noise, as in a run on one of the data sets of 28-pixel digits."""

    def __init__(self, dataset: str, domains: int, images: int) -> None:
        data: Any = registry.find("datasets", dataset)
        erm: Any = registry.find("algorithms", "ERM")
        hp = hparams.resolve(erm, data, {})
        channels, height, width = data.input_shape
        r = np.random.default_rng(0)
        self.pools = []
        for env in range(domains):
            noise = r.integers(0, 256, (images, height, width, channels), dtype=np.uint8)
            domain = Domain(str(env), noise, r.integers(0, 10, images), "synthetic")
            self.pools.append(Pool(domain, env, r.permutation(images), domain.labels))
        draw = Draw(self.pools, hp["batch_size"], ["none"], data.sampling)
        self.loader = Loader(draw, 0, height, None, torch.device("cpu"))
        problem = Problem(data.input_shape, 10, domains, 100, 100, backbone=data.backbone)
        mine, self.bare = (erm(problem, hp).to(memory_format=torch.channels_last) for _ in range(2))
        self.state, self.steps = State(mine, averaging.make((), mine), Meter()), count()
        self.batch = self.loader.batch(0)

    def step(self) -> None:
        update(self.state, self.loader, next(self.steps), 0)

    def evaluate(self, images: int) -> None:
        pool = replace(self.pools[0], indices=self.pools[0].indices[:images])
        accuracy(self.state.algorithm, self.loader.evaluation(pool))

    def bare_step(self, steps: int = 1) -> None:
        """Forward, backward, optimizer, again and again on one batch."""
        for _ in range(steps):
            self.bare.optims[0].zero_grad(set_to_none=True)
            cross_entropy(self.bare(self.batch.x), self.batch.y).backward()
            self.bare.optims[0].step()


def step(turns: int) -> list[Ratio]:
    """Harness step / bare step: ERM on RotatedMNIST's shapes, MNIST CNN, 5 domains x 64 images."""
    ours = Ours("RotatedMNIST", domains=5, images=9333)
    name = "harness step / bare step, RotatedMNIST, MNIST CNN, 5 x 64"
    return [alternate(name, ours.step, ours.bare_step, turns)]


def epoch(turns: int) -> list[Ratio]:
    """A twentieth of an epoch on MNIST_MP, its evaluations included / as many bare steps."""
    ours, steps, evaluated = Ours("MNIST_MP", domains=1, images=60_000), 24, 1024

    def part() -> None:
        for _ in range(steps):
            ours.step()
        ours.evaluate(evaluated)

    name = "1/20 epoch with evaluation / bare steps, MNIST_MP, two_conv, 128"
    return [alternate(name, part, lambda: ours.bare_step(steps), max(1, turns // 6))]
