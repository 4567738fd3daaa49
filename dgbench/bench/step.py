"""What the harness adds to a step, and to an epoch with its evaluations."""

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .. import averaging, hparams, registry
from ..algorithm import Problem
from ..build import build
from ..checkpoint import State
from ..dataset import Domain
from ..evaluate import accuracy
from ..loaders import Loader
from ..machine import Machine
from ..meter import Meter
from ..spec import RunSpec
from ..stream import Draw
from ..tasks import Pool
from ..train import update
from .images import data_dir
from .ratio import Ratio, alternate

CASES = {
    "ResNet-18, 64 px": RunSpec("PACS", "ERM", backbone="resnet18", image_size=64),
    "ResNet-18, 224 px": RunSpec("PACS", "ERM", backbone="resnet18", image_size=224),
    "ResNet-50, 224 px, bf16": RunSpec("PACS", "ERM", backbone="resnet50", image_size=224, precision="bf16"),
}
ON_GPU = ("ResNet-50, 224 px, bf16",)


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


def backbones(turns: int) -> list[Ratio]:
    """Harness step / bare step on PACS, 3 x 32, data pipeline included; ResNet-50 where there is a GPU."""
    cases = {name: "cuda" if name in ON_GPU else "cpu" for name in CASES}
    return [
        _backbone(name, device, turns)
        for name, device in cases.items()
        if device == "cpu" or torch.cuda.is_available()
    ]


def _backbone(name: str, device: str, turns: int) -> Ratio:
    spec = replace(CASES[name], test_envs=("sketch",), pretrained="none").resolved()
    ours, bare = (build(spec, Machine(data_dir=data_dir(), device=device)) for _ in range(2))
    state, batch, numbers = State(ours.algorithm, {}, Meter()), bare.loader.batch(0), count()
    steps = 20 if device == "cuda" else 1

    def harness() -> None:
        for _ in range(steps):
            with ours.autocast():
                update(state, ours.loader, next(numbers), ours.seed)
        _finish(device)

    def plain() -> None:
        for _ in range(steps):
            bare.algorithm.optims[0].zero_grad(set_to_none=True)
            with bare.autocast():
                loss = cross_entropy(bare.algorithm(batch.x), batch.y)
            loss.backward()
            bare.algorithm.optims[0].step()
        _finish(device)

    several = f", {steps} at a time" if steps > 1 else ""
    title = f"harness step / bare step, PACS, {name}, 3 x 32, {device}{several}"
    return alternate(title, harness, plain, turns if device == "cuda" else max(1, turns // 6))


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
