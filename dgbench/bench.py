"""The cost of the harness, as ratios taken in one process: ``make bench``.

Ours and the reference run in turns (A B A B ...); the table shows the median time of each and the median of
the paired ratios, which a noisy machine moves little. Times are never asserted anywhere.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch.nn.functional import cross_entropy

from . import averaging, files, flags, hparams, registry
from .algorithm import Problem
from .checkpoint import State
from .dataset import Domain
from .errors import exit_on_usage_error
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


def step_ratio(turns: int) -> Ratio:
    """Harness step / bare step: ERM on RotatedMNIST's shapes, MNIST CNN, 5 domains x 64 images."""
    r = np.random.default_rng(0)
    pools = []
    for env in range(5):
        images = r.integers(0, 256, (9333, 28, 28, 1), dtype=np.uint8)
        domain = Domain(str(env), images, r.integers(0, 10, 9333), "synthetic")
        pools.append(Pool(domain, env, r.permutation(9333), domain.labels))
    loader = Loader(pools, 64, 0, "none", 28, None, False, CPU)
    hp = hparams.resolve(registry.find("algorithms", "ERM"), registry.find("datasets", "RotatedMNIST"), {})
    problem = Problem((1, 28, 28), 10, 5, 100, 100, backbone="mnist_cnn")
    erm = registry.find("algorithms", "ERM")
    mine, bare = (erm(problem, hp).to(memory_format=torch.channels_last) for _ in range(2))
    state, batch, count = State(mine, averaging.make((), mine), Meter()), loader.batch(0), iter(range(10**9))

    def reference() -> None:
        bare.optims[0].zero_grad(set_to_none=True)
        cross_entropy(bare(batch.x), batch.y).backward()
        bare.optims[0].step()

    name = "harness step / bare step, RotatedMNIST, MNIST CNN, 5 x 64"
    return alternate(name, lambda: update(state, loader, next(count), 0), reference, turns)


BENCHMARKS: dict[str, Callable[[int], Ratio]] = {"step": step_ratio}


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
