"""Batches are a function of (seed, domain, step, row), whatever the workers, the cache and the batch size."""

import math
import os
import signal
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench import image_cache
from dgbench.ahead import Ahead
from dgbench.algorithm import Batch
from dgbench.dataset import Domain
from dgbench.loaders import Loader
from dgbench.stream import Draw, gather
from dgbench.tasks import Pool
from dgbench.views import IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Pool]]:
    """Two domains of image files under each kind of cache."""
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))
    r = np.random.default_rng(0)
    paths: dict[str, list[Path]] = {"day": [], "night": []}
    for domain, own in paths.items():
        (tmp_path / domain).mkdir()
        for i in range(20):
            pixels = r.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            own.append(tmp_path / domain / f"{i:02}.png")
            Image.fromarray(pixels).resize((30 + i, 40)).save(own[-1])
    labels = np.arange(20) % 3

    def pool(env: int, domain: str, cache: str) -> Pool:
        decoded = image_cache.load(domain, tmp_path, paths[domain], 24, cache)
        own = Domain(domain, decoded.images, labels, decoded.fingerprint, decoded.sizes)
        rows = np.random.default_rng(env).permutation(20)[:15]
        return Pool(own, env, rows, labels[rows])

    return {
        cache: [pool(env, domain, cache) for env, domain in enumerate(paths)] for cache in image_cache.CACHES
    }


def loader(pools: list[Pool], batch_size: int = 5, workers: int = 0, view: str = "domainbed") -> Loader:
    return Loader(Draw(pools, batch_size, [view]), 7, 24, (IMAGENET_MEAN, IMAGENET_STD), CPU, workers)


def same(a: Batch, b: Batch) -> bool:
    pairs = ((a.x, b.x), (a.y, b.y), (a.d, b.d), (a.idx, b.idx))
    return all(torch.equal(mine, other) for mine, other in pairs)


def test_the_cache_decides_no_pixel(pools: dict[str, list[Pool]]) -> None:
    batches = {cache: loader(own).batch(3) for cache, own in pools.items()}
    images = {cache: torch.cat(list(loader(own).images(own[1]))) for cache, own in pools.items()}
    for cache in ("ram", "none"):
        assert same(batches[cache], batches["disk"])
        assert torch.equal(images[cache], images["disk"])
    assert images["disk"].shape == (15, 3, 24, 24)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_workers_decide_no_pixel(pools: dict[str, list[Pool]], workers: int, cache: str) -> None:
    inline, ahead = loader(pools["disk"]), loader(pools[cache], workers=workers)
    for step in (2, 3, 4, 5, 6, 7, 0, 8, 8, 9, 20):  # begun after a resume; out of order too
        assert same(ahead.batch(step), inline.batch(step)), step


def test_a_batch_stays_as_it_is_while_workers_go_on(pools: dict[str, list[Pool]]) -> None:
    ahead = loader(pools["disk"], workers=1)
    kept = [ahead.batch(step) for step in range(6)]
    assert all(same(batch, loader(pools["disk"]).batch(step)) for step, batch in enumerate(kept))


@pytest.mark.parametrize("view", ["domainbed", "weak", "strong", "moco"])
def test_a_batch_is_a_function_of_its_step(pools: dict[str, list[Pool]], view: str) -> None:
    used, fresh = loader(pools["disk"], view=view), loader(pools["disk"], view=view)
    first = [used.batch(step) for step in range(3)]
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(used.batch(1), first[1]) and same(fresh.batch(2), first[2])
    assert not same(first[0], first[1])


def test_a_row_is_the_same_in_a_larger_batch_and_beside_other_domains(pools: dict[str, list[Pool]]) -> None:
    few, many = loader(pools["disk"], 3).batch(4), loader(pools["disk"], 11).batch(4)
    alone = loader(pools["disk"][1:], 3).batch(4)
    assert torch.equal(few.per_domain(few.x), many.per_domain(many.x)[:, :3])
    assert torch.equal(alone.x, few.x[3:]) and torch.equal(alone.idx, few.idx[3:])


def test_a_batch_holds_the_images_that_its_indices_name(pools: dict[str, list[Pool]]) -> None:
    batch = Loader(Draw(pools["disk"], 5, ["none"]), 7, 24, None, CPU).batch(1)
    for x, y, d, idx in zip(batch.x, batch.y, batch.d, batch.idx, strict=True):
        pool = pools["disk"][d]
        image = torch.from_numpy(np.array(pool.domain.images[pool.indices[idx]]))
        assert torch.equal((x * 255).round().byte().permute(1, 2, 0), image)
        assert pool.domain.labels[pool.indices[idx]] == y


def test_each_view_of_labelled_and_unlabelled_images_is_drawn_on_its_own(
    pools: dict[str, list[Pool]],
) -> None:
    """Of one image, where the rows cannot differ; and the rows differ where there are several."""
    own = pools["none"]
    several, alone = (Draw(drawn, 5, ["domainbed"] * 2) for drawn in (own, [own[0].take(np.arange(1))]))
    batch = Loader(alone, 7, 24, None, CPU, unlabelled=alone).batch(3)
    for one, other in combinations((batch.x, batch.x2, batch.u, batch.u2), 2):
        assert one is not None and other is not None and not torch.equal(one, other)
    batch = Loader(several, 7, 24, None, CPU, unlabelled=several).batch(3)
    assert batch.uidx is not None and not torch.equal(batch.idx, batch.uidx)


def test_balanced_classes_are_equally_likely_and_so_are_their_images(pools: dict[str, list[Pool]]) -> None:
    few = pools["none"][0]
    unequal = replace(few, labels=np.repeat([0, 2, 1], [1, 4, 10]))
    drawn = Loader(Draw([unequal], 9000, ["none"], class_balanced=True), 7, 24, None, CPU).batch(0)
    classes, rows = (torch.bincount(found).numpy() for found in (drawn.y, drawn.idx))
    assert np.all(np.abs(classes - 3000) < 5 * math.sqrt(9000 * 2 / 9))
    expected = np.repeat([3000, 750, 300], [1, 4, 10])
    assert np.all(np.abs(rows - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_are_gathered_in_order(channels: int) -> None:
    r = np.random.default_rng(0)
    made = []
    for env in range(2):
        images = r.integers(0, 256, (9, 4, 6, channels), dtype=np.uint8)
        made.append(Pool(Domain("a", images, np.zeros(9, int), ""), env, r.permutation(9), None))
    rows = [np.array([3, 0, 3]), slice(7, 20)]
    out = gather(list(zip(made, rows, strict=True)))
    expected = [p.domain.images[p.indices[own]] for p, own in zip(made, rows, strict=True)]
    assert (out.numpy() == np.concatenate(expected)).all()
    assert out.permute(0, 3, 1, 2).is_contiguous()


def test_an_error_in_a_worker_is_raised() -> None:
    def produce(step: int) -> torch.Tensor:
        if step == 3:
            raise ValueError("step three")
        return torch.full((2,), step)

    ahead = Ahead(produce, 2)
    assert [int(ahead(step)[0]) for step in (1, 2)] == [1, 2]
    with pytest.raises(ValueError, match="step three"):
        ahead(3)


def test_a_killed_worker_is_an_error_not_a_wait() -> None:
    ahead = Ahead(lambda step: torch.tensor([os.getpid()]), 1)
    child = int(ahead(0))
    assert child != os.getpid()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        for step in range(1, 9):
            ahead(step)
