"""Digits in the colours of their classes: the colours, the data sets, how they are trained and validated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from literal_mnist import write_mnist
from torch import nn

from dgbench import hparams, registry, sweep, tasks, train
from dgbench.algorithm import Problem
from dgbench.algorithms.erm import ERM
from dgbench.build import build, check
from dgbench.dataset import Dataset, Domain
from dgbench.datasets import _digits
from dgbench.datasets._class_colours import CUBE, MEAN, PALETTE, SPHERE, ClassColours, paint
from dgbench.datasets.digits_mp import Digits_MP
from dgbench.datasets.mnist import MNIST
from dgbench.datasets.mnist_mp import MNIST_MP
from dgbench.datasets.mnist_up import MNIST_UP
from dgbench.datasets.mnist_up_anti import MNIST_UP_Anti
from dgbench.errors import UsageError
from dgbench.loaders import Loader
from dgbench.machine import Machine
from dgbench.records import evaluation_steps
from dgbench.spec import RunSpec
from dgbench.stream import Draw
from dgbench.tasks import Pool

ALL = [Digits_MP, MNIST, MNIST_MP, MNIST_UP, MNIST_UP_Anti]


def test_colours_have_the_papers_geometry() -> None:
    """Six on a sphere around their mean, four on vertices of a cube; none alone is nearest to the mean."""
    assert np.abs(MEAN - 127.3).max() < 1e-9
    offsets = PALETTE - MEAN
    distances = np.linalg.norm(offsets, axis=1)
    assert np.abs(distances[list(SPHERE)] - 127.5).max() < 0.5
    corners = np.abs(offsets[list(CUBE)])
    assert np.abs(corners - 127.5).max() < 0.5, "every coordinate of a vertex is half the cube's side away"
    assert (distances < distances.min() + 0.5).sum() == 6
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE) == 10
    apart = np.linalg.norm(PALETTE[:, None] - PALETTE[None], axis=2)
    assert apart[~np.eye(10, dtype=bool)].min() > 127


def test_paint_by_loop() -> None:
    r = np.random.RandomState(0)
    images, choice = r.randint(0, 256, (7, 3, 2)).astype(np.uint8), r.randint(0, 3, 7)
    colours = np.array([[255, 0, 127], [127.3, 127.3, 127.3], [1, 2, 3]])
    painted = paint(images, colours, choice)
    assert painted.dtype == np.uint8 and painted.shape == (7, 3, 2, 3)
    for i, y, x, c in np.ndindex(painted.shape):
        assert painted[i, y, x, c] == round(images[i, y, x] * colours[choice[i], c] / 255)


def brightest(domain: Domain) -> np.ndarray:
    """The colour (n, 3) of each image's brightest pixel."""
    flat = domain.images.reshape(len(domain), -1, 3)
    return flat[np.arange(len(flat)), flat.sum(2).argmax(1)]


def load(cls: type[ClassColours], folder: Path, trial_seed: int = 0) -> list[Domain]:
    if cls is not Digits_MP and not (folder / "MNIST").exists():
        write_mnist(folder, zipped=False, n=70, levels=(255, 256), train=60)
    return cls(folder, trial_seed).load(cls.domains)


@pytest.mark.parametrize("cls", ALL)
def test_shapes_and_labels(cls: type[ClassColours], tmp_path: Path) -> None:
    trained, validation, test = load(cls, tmp_path)
    assert (len(trained), len(validation)) == ((1347, 450) if cls is Digits_MP else (60, 10))
    assert (validation.labels == test.labels).all() and len(
        {trained.fingerprint, validation.fingerprint}
    ) == 2
    for domain in (trained, validation, test):
        assert domain.images.dtype == np.uint8 and domain.labels.dtype == np.int64
        assert domain.images.shape == (len(domain), *cls.input_shape[1:], 3)  # type: ignore[index]


@pytest.mark.parametrize("cls", ALL)
def test_training_and_validation_tell_the_class_by_its_colour(
    cls: type[ClassColours], tmp_path: Path
) -> None:
    for domain in load(cls, tmp_path)[:2]:
        if cls is MNIST:
            assert (brightest(domain) == 255).all()
        else:
            distances = np.linalg.norm(brightest(domain)[:, None] - PALETTE[None], axis=2)
            assert (distances.argmin(1) == domain.labels).all() and set(domain.labels) == set(range(10))
            assert cls is Digits_MP or distances.min(1).max() == 0


def test_test_colours(tmp_path: Path) -> None:
    """Every test digit: the mean; white; another class's; the next class's."""
    assert (brightest(load(MNIST_MP, tmp_path)[2]) == 127).all()
    grey = load(Digits_MP, tmp_path)[2].images
    assert (grey == grey[..., :1]).all() and (grey.max((1, 2, 3)) > 110).all() and grey.max() == 127
    assert (brightest(load(MNIST, tmp_path)[2]) == 255).all()
    test = load(MNIST_UP_Anti, tmp_path)[2]
    assert (brightest(test) == PALETTE[(test.labels + 1) % 10]).all()
    seen = []
    for trial in range(40):
        test = load(MNIST_UP, tmp_path, trial)[2]
        match = (brightest(test)[:, None] == PALETTE[None]).all(2)  # (n, 10)
        assert (match.sum(1) == 1).all()
        seen.append((match.argmax(1) - test.labels) % 10)
    assert sorted(set(np.concatenate(seen))) == list(range(1, 10)), "any class but the digit's own"
    again = load(MNIST_UP, tmp_path, 39)[2]
    assert (again.images == test.images).all()


def test_the_digits_of_validation_are_those_of_test_and_were_not_trained_on(tmp_path: Path) -> None:
    for cls in (Digits_MP, MNIST_MP):
        found = load(cls, tmp_path)
        shapes = [{(image.max(2) > 0).tobytes() for image in d.images} for d in found[:2]]
        assert len(shapes[0] & shapes[1]) < 0.1 * len(shapes[1])
        for one, other in zip(found[1].images.max(3), found[2].images.max(3), strict=True):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    first, second = (load(Digits_MP, tmp_path, trial)[1] for trial in (0, 1))
    assert not np.array_equal(first.images, second.images), "the trial decides"
    assert first.fingerprint == second.fingerprint


def test_real_mnist(real_data: Path) -> None:
    trained, validation, test = MNIST_MP(real_data).load(MNIST_MP.domains)
    assert (len(trained), len(validation), len(test)) == (60000, 10000, 10000)
    assert list(trained.labels[:3]) == [5, 0, 4] and validation.labels[0] == 7
    assert (test.images.max((0, 1, 2)) == 127).all()
    original = _digits.mnist(real_data, "MNIST").images[60000:]
    light = np.isin(validation.labels, (1, 3, 5), invert=True)
    assert (validation.images.max(3)[light] == original[light]).all(), "their colours have a channel of 255"


# the task


def split_of(**fields: Any) -> tasks.Split:
    spec = RunSpec("Digits_MP", "ERM", task="single_source", **fields).resolved()
    return tasks.single_source(spec, Digits_MP(None), Digits_MP.domains)


def test_single_source_alone_is_the_papers_protocol() -> None:
    split = split_of()
    assert [pool.domain.name for pool in split.labelled] == ["train"] and len(split.labelled[0]) == 1347
    assert split.parts == {"validation": ["validation/all"], "test": ["test/all"], "oracle": ["test/all"]}
    assert set(split.evaluated) == {"validation/all", "test/all"}
    assert [len(pool) for pool in split.evaluated.values()] == [450, 450]
    named = RunSpec("Digits_MP", "ERM", task="single_source", source_envs=("train",))
    alone = RunSpec("Digits_MP", "ERM", task="single_source")
    assert named.resolved().run_id() == alone.resolved().run_id()


@pytest.mark.parametrize("where", [{"source_envs": ("validation",)}, {"test_envs": ("validation",)}])
def test_the_domain_for_validation_is_nothing_else(where: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"Digits_MP validates on validation; choose .* from: train, test"):
        split_of(**where)


def test_a_grid_has_one_run_a_trial() -> None:
    runs = sweep.grid(["ERM"], ["MNIST_MP"], n_trials=2, task="single_source")
    assert [(spec.source_envs, spec.trial_seed) for spec in runs] == [(("train",), 0), (("train",), 1)]
    assert len(sweep.grid(["ERM"], ["MNIST_MP"], n_trials=1, task="single_source", envs=["0", "2"])) == 2


def test_the_other_task_runs_on_them_too(tmp_path: Path) -> None:
    record = train.run(RunSpec("Digits_MP", "ERM", test_envs=("test",), steps=2), tmp_path / "run")
    assert record["parts"]["validation"] == ["train/out", "validation/out"]


# the published protocol


def test_published_protocol() -> None:
    for cls in (MNIST, MNIST_MP, MNIST_UP, MNIST_UP_Anti):
        values = hparams.resolve(ERM, cls, {})
        told = {name: values[name] for name in ("optimizer", "batch_size", "momentum", "nesterov", "lr")}
        assert told == {"optimizer": "sgd", "batch_size": 128, "momentum": 0.9, "nesterov": True, "lr": 1e-3}
        assert values["weight_decay"] == 1e-5 and cls.backbone == "two_conv" and cls.sampling == "epochs"
        spec = RunSpec(cls.__name__, "ERM", task="single_source").resolved()
        assert evaluation_steps(spec) == [469 * epoch for epoch in range(11)], "after every epoch"
        assert 10 * 60_000 <= spec.steps * 128 <= 10.01 * 60_000  # type: ignore[operator]


def optimizer(**chosen: Any) -> torch.optim.Optimizer:
    values = hparams.resolve(ERM, Dataset, {"lr": 0.1, "weight_decay": 0.01, **chosen})
    return ERM(Problem((1, 8, 8), 3, 1, 1, 1, backbone="digits_cnn"), values).optims[0]


def test_optimizers() -> None:
    assert type(optimizer()) is torch.optim.Adam
    assert type(optimizer(optimizer="adamw")) is torch.optim.AdamW
    sgd = optimizer(optimizer="sgd", momentum=0.9, nesterov=True)
    assert type(sgd) is torch.optim.SGD
    told = {name: sgd.defaults[name] for name in ("lr", "weight_decay", "momentum", "nesterov")}
    assert told == {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True}
    assert optimizer(optimizer="adamw").defaults["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"optimizer": "lion"}, r"optimizer='lion' is not a choice; choose from: adam \| adamw \| sgd"),
        ({"nesterov": True}, r"nesterov=True needs a momentum above 0"),
    ],
)
def test_bad_optimizers(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(RunSpec("RotatedDigits", "ERM", test_envs=("0",), hparams=chosen).resolved())


# batches in epochs


def loader(n: int, batch_size: int, sampling: str = "epochs", **settings: Any) -> Loader:
    images = np.zeros((n, 2, 2, 1), np.uint8)
    pools = [
        Pool(Domain(str(i), images, np.arange(n) % 2, ""), i, np.arange(n), np.arange(n) % 2)
        for i in range(2)
    ]
    balanced = settings.get("class_balanced", False)
    draw = Draw(pools, batch_size, ["none"], sampling, balanced)
    return Loader(draw, 0, 2, None, torch.device("cpu"))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 5), (3, 8), (7, 7)])
def test_an_epoch_has_every_image_once(n: int, batch_size: int) -> None:
    one, epochs = loader(n, batch_size), 20
    rows = torch.cat([one.batch(t).per_domain(one.batch(t).idx) for t in range(epochs * n // batch_size)], 1)
    for domain in rows:
        orders = []
        for epoch in domain[: len(domain) // n * n].view(-1, n):
            assert sorted(epoch.tolist()) == list(range(n))
            orders.append(tuple(epoch.tolist()))
        assert len(set(orders)) > 1, "in another order"


def test_a_batch_of_an_epoch_is_a_function_of_its_step() -> None:
    forwards, backwards = loader(10, 4), loader(10, 4)
    expected = [forwards.batch(t).idx for t in range(8)]
    found = [backwards.batch(t).idx for t in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_class_balance_goes_before_epochs() -> None:
    balanced, plain = loader(10, 4, class_balanced=True), loader(10, 4, "replacement", class_balanced=True)
    assert torch.equal(balanced.batch(3).idx, plain.batch(3).idx)


def test_a_run_takes_the_sampling_of_its_data_set() -> None:
    spec = RunSpec("Digits_MP", "ERM", task="single_source", hparams={"batch_size": 449}).resolved()
    built = build(spec, Machine(device="cpu"))
    rows = torch.cat([built.loader.batch(t).idx for t in range(3)])
    assert sorted(rows.tolist()) == list(range(1347))
    assert isinstance(built.algorithm.classifier, nn.Linear)


def test_names_are_found() -> None:
    for name in ("mnist_mp", "MNIST_UP_ANTI", "digits_mp"):
        assert issubclass(registry.find("datasets", name), ClassColours)
