"""Frozen features: what the backbone gives, computed once, and runs that train on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench import features, image_cache, networks, train
from dgbench.algorithm import Problem
from dgbench.build import Built, build
from dgbench.dataset import Domain
from dgbench.datasets.imagefolders import ImageFolders
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.spec import RunSpec
from dgbench.tasks import Pool

SPEC = RunSpec("ImageFolders", "ERM", test_envs=("a",), backbone="resnet18", pretrained="none", image_size=32)
FROZEN = replace(SPEC, frozen=True, steps=4, checkpoint_freq=2, hparams={"batch_size": 4})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three domains, two classes, five images each; an empty cache."""
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))
    root, r = tmp_path / "images", np.random.default_rng(0)
    for domain in ("a", "b", "c"):
        for label in ("cat", "dog"):
            (root / domain / label).mkdir(parents=True)
            for i in range(5):
                pixels = r.integers(0, 255, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / label / f"{i}.png")
    return root


def built(spec: RunSpec, root: Path, cache: str = "disk") -> Built:
    return build(spec.resolved(root), Machine(data_dir=root, device="cpu", cache=cache))


def files() -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (image_cache.folder().parent / "features").glob("*.npy")}


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_features_are_what_the_backbone_gives_in_evaluation(root: Path, cache: str) -> None:
    torch.manual_seed(0)
    problem = Problem((3, 32, 32), 2, 2, 1, 1, backbone="resnet18")
    network = networks.featurizer(problem, {"resnet_dropout": 0.5}).eval()
    images, frozen = built(SPEC, root), built(FROZEN, root, cache)
    for part, pool in images.split.evaluated.items():
        with torch.no_grad():
            expected = torch.cat([network(x) for x, _ in images.loader.evaluation(pool)])
        found = torch.cat([x for x, _ in frozen.loader.evaluation(frozen.split.evaluated[part])])
        torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-4)
    assert len(files()) == (3 if cache == "disk" else 0)


def test_features_are_evaluated_in_batches(root: Path) -> None:
    frozen, labels = built(FROZEN, root), np.arange(3000) % 2
    many = np.arange(3000 * 2048, dtype=np.float32).reshape(3000, 1, 1, 2048)
    pool = Pool(Domain("many", many, labels, "x"), 0, np.arange(3000), labels)
    found = [x for x, _ in frozen.loader.evaluation(pool)]
    assert max(x.numel() for x in found) <= 2**20  # 4 MB, not all 24 MB
    assert torch.equal(torch.cat(found).flatten(), torch.arange(3000 * 2048, dtype=torch.float32))


def test_a_batch_holds_the_rows_that_a_run_on_images_draws(root: Path) -> None:
    images, frozen = built(replace(SPEC, hparams={"batch_size": 4}), root), built(FROZEN, root)
    ours, theirs = frozen.loader.batch(3), images.loader.batch(3)
    assert torch.equal(ours.idx, theirs.idx) and torch.equal(ours.y, theirs.y)
    for i, pool in enumerate(frozen.split.labelled):
        rows = pool.indices[ours.per_domain(ours.idx)[i]]
        assert np.array_equal(ours.per_domain(ours.x)[i, :, :, 0, 0], pool.domain.images[rows, 0, 0])


def test_they_are_computed_once_per_content_backbone_and_size(root: Path) -> None:
    built(FROZEN, root)
    before = files()
    built(replace(FROZEN, trial_seed=1, test_envs=("b",), algorithm="CORAL"), root)
    assert files() == before
    built(replace(FROZEN, image_size=48), root)
    assert len(files()) == 6
    Image.new("RGB", (36, 40)).save(root / "a" / "cat" / "0.png")
    built(FROZEN, root)
    assert len(files()) == 7 and files().items() > before.items()


def test_the_same_files_in_another_order_have_features_of_their_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a data set lists its classes the other way round."""
    one = built(FROZEN, root)
    monkeypatch.setattr(ImageFolders, "classes", ("dog", "cat"))
    other = built(FROZEN, root)
    for part, pool in one.split.evaluated.items():
        theirs = other.split.evaluated[part].domain
        order = np.argsort(1 - theirs.labels, kind="stable")  # its dogs come first
        assert np.array_equal(pool.domain.images, theirs.images[order])


def test_trials_that_draw_their_images_have_features_of_their_own(root: Path) -> None:
    digits = replace(FROZEN, dataset="RotatedDigits", test_envs=("0",), image_size=0)
    runs = [built(replace(digits, trial_seed=trial), root) for trial in (0, 1)]
    for spec in (replace(digits, trial_seed=1), replace(digits, trial_seed=0)):
        again, alone = built(spec, root), built(spec, root, "none")
        for part, pool in alone.split.evaluated.items():
            found = again.split.evaluated[part]
            np.testing.assert_array_equal(found.labels, pool.labels)
            np.testing.assert_array_equal(found.domain.images, pool.domain.images)
    assert len(files()) == 12 and runs[0].head["fingerprint"] == runs[1].head["fingerprint"]


def test_a_run_trains_the_head_alone(root: Path, tmp_path: Path) -> None:
    run = built(FROZEN, root)
    assert {name for name, _ in run.algorithm.named_parameters()} == {"classifier.weight", "classifier.bias"}
    record = train.run(FROZEN, tmp_path / "run", Machine(data_dir=root, device="cpu"))
    weights = features.weights_hash(
        features._network(features.Source("resnet18", "none", (3, 32, 32), None))[0]
    )
    assert record["pretrained"] == f"none-{weights}"
    assert record["spec"]["frozen"] and record["fingerprint"] == built(SPEC, root).head["fingerprint"]
    assert FROZEN.run_id() != replace(FROZEN, frozen=False).run_id()


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("DSU", "feature maps, which --frozen does not give"),
        ("SagNet", "trains the backbone; leave"),
    ],
)
def test_a_method_that_needs_the_backbone_is_told_so(
    root: Path, tmp_path: Path, algorithm: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train.run(
            replace(FROZEN, algorithm=algorithm), tmp_path / "run", Machine(data_dir=root, device="cpu")
        )
    assert not (tmp_path / "run").exists()
