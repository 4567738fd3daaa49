"""What the harness adds to a step."""

from itertools import count

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .. import averaging, hparams, registry
from ..algorithm import Problem
from ..checkpoint import State
from ..dataset import Domain
from ..loaders import Loader
from ..meter import Meter
from ..tasks import Pool
from ..train import update
from .ratio import Ratio, alternate


def step(turns: int) -> list[Ratio]:
    """Harness step / bare step: ERM on RotatedMNIST's shapes, MNIST CNN, 5 domains x 64 images."""
    r = np.random.default_rng(0)
    pools = []
    for env in range(5):
        images = r.integers(0, 256, (9333, 28, 28, 1), dtype=np.uint8)
        domain = Domain(str(env), images, r.integers(0, 10, 9333), "synthetic")
        pools.append(Pool(domain, env, r.permutation(9333), domain.labels))
    loader = Loader(pools, 64, 0, "none", 28, None, False, torch.device("cpu"))
    erm = registry.find("algorithms", "ERM")
    hp = hparams.resolve(erm, registry.find("datasets", "RotatedMNIST"), {})
    problem = Problem((1, 28, 28), 10, 5, 100, 100, backbone="mnist_cnn")
    mine, bare = (erm(problem, hp).to(memory_format=torch.channels_last) for _ in range(2))
    state, batch, steps = State(mine, averaging.make((), mine), Meter()), loader.batch(0), count()

    def reference() -> None:
        bare.optims[0].zero_grad(set_to_none=True)
        cross_entropy(bare(batch.x), batch.y).backward()
        bare.optims[0].step()

    name = "harness step / bare step, RotatedMNIST, MNIST CNN, 5 x 64"
    return [alternate(name, lambda: update(state, loader, next(steps), 0), reference, turns)]
