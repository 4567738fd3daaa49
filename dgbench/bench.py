"""The cost of the harness, as ratios taken in one process: ``make bench``.

Ours and the reference run in turns (A B A B ...); the table shows the median time of each and the median of
the paired ratios, which a noisy machine moves little. Times are never asserted anywhere.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.nn.functional import cross_entropy

from . import averaging, files, flags, hparams, registry
from .algorithm import Problem
from .checkpoint import State
from .dataset import Domain
from .errors import exit_on_usage_error
from .evaluate import accuracy
from .loaders import Loader
from .meter import Meter
from .tasks import Pool
from .train import update

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ratio:
    """ours / reference; times in milliseconds."""

    name: str
    ours: float
    reference: float
    ratio: float


def alternate(name: str, ours: Callable[[], object], reference: Callable[[], object], turns: int) -> Ratio:
    """Run both in turns, after one warm-up each."""
    ours()
    reference()
    times = [(_milliseconds(ours), _milliseconds(reference)) for _ in range(turns)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return Ratio(name, mine, theirs, statistics.median(a / b for a, b in times))


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


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
        sizes = (hp["batch_size"], 0, "none", height, None)
        self.loader = Loader(self.pools, *sizes, False, CPU, data.sampling)
        problem = Problem(data.input_shape, 10, domains, 100, 100, backbone=data.backbone)
        mine, self.bare = (erm(problem, hp).to(memory_format=torch.channels_last) for _ in range(2))
        self.state, self.count = State(mine, averaging.make((), mine), Meter()), iter(range(10**9))
        self.batch = self.loader.batch(0)

    def step(self) -> None:
        update(self.state, self.loader, next(self.count), 0)

    def evaluate(self, images: int) -> None:
        pool = replace(self.pools[0], indices=self.pools[0].indices[:images])
        accuracy(self.state.algorithm, self.loader.evaluation(pool))

    def bare_step(self, steps: int = 1) -> None:
        """Forward, backward, optimizer, again and again on one batch."""
        for _ in range(steps):
            self.bare.optims[0].zero_grad(set_to_none=True)
            cross_entropy(self.bare(self.batch.x), self.batch.y).backward()
            self.bare.optims[0].step()


def step_ratio(turns: int) -> Ratio:
    """Harness step / bare step: ERM on RotatedMNIST's shapes, MNIST CNN, 5 domains x 64 images."""
    ours = Ours("RotatedMNIST", domains=5, images=9333)
    name = "harness step / bare step, RotatedMNIST, MNIST CNN, 5 x 64"
    return alternate(name, ours.step, ours.bare_step, turns)


def epoch_ratio(turns: int) -> Ratio:
    """A twentieth of an epoch on MNIST_MP, its evaluations included / as many bare steps."""
    ours, steps, evaluated = Ours("MNIST_MP", domains=1, images=60_000), 24, 1024

    def part() -> None:
        for _ in range(steps):
            ours.step()
        ours.evaluate(evaluated)

    name = "1/20 epoch with evaluation / bare steps, MNIST_MP, two_conv, 128"
    return alternate(name, part, lambda: ours.bare_step(steps), max(1, turns // 6))


BENCHMARKS: dict[str, Callable[[int], Ratio]] = {"step": step_ratio, "epoch": epoch_ratio}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.bench", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the ratios as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    ratios = [BENCHMARKS[name](args.turns) for name in args.names or BENCHMARKS]
    rows = [asdict(ratio) for ratio in ratios]
    print(tabulate(rows, headers={"ours": "ours (ms)", "reference": "reference (ms)"}, floatfmt=".3f"))
    if args.output:
        files.replace_text(args.output, json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
