import json
import math
import re
from typing import Any

import numpy as np
import pytest
from golden_vectors import documents

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.hparams import (
    SHARED,
    SMALL_IMAGES,
    Choice,
    LogUniform,
    Option,
    Uniform,
    declared,
    resolve,
    seed_hash,
)

BACKBONE = {  # settings of the run here, not hyper-parameters
    *("resnet18", "resnet50_augmix", "dinov2", "vit", "vit_attn_tune", "vit_dropout"),
    *("lars", "linear_steps", "freeze_bn"),
}
OURS = {
    "optimizer",
    "momentum",
    "nesterov",
    "featurizer_lr",
    "lr_schedule",
    "lr_gamma",
}  # Adam, constant in DomainBed

Entry = tuple[str, str, int, int, dict[str, Any]]  # algorithm, data set, hparams_seed, trial_seed, values


def golden() -> list[Entry]:
    """Every recorded choice of hyper-parameters."""
    found: list[Entry] = []
    for document in documents("domainbed", "hparams"):
        for name, values in document.items():
            algorithm, data, hparams_seed, trial_seed = name.split("|")
            found.append((algorithm, data, int(hparams_seed), int(trial_seed), values))
    for document in documents("dg", "domainbed_protocol"):
        for name, values in document["default_hparams"].items():
            found.append((*name.split("/"), 0, 0, values))
        for name, values in document["random_hparams"].items():
            algorithm, data, seeds = name.split("/")
            found.append((algorithm, data, *map(int, re.findall(r"\d+", seeds)), values))
    return found


GOLDEN = golden()


def dataset(name: str) -> type:
    """The data set of that name, or one with the hyper-parameters that DomainBed gives it."""
    if name in registry.names("datasets"):
        return registry.find("datasets", name)
    hparams: Any = {}
    if name.endswith("MNIST"):
        hparams = SMALL_IMAGES
    elif name == "DomainNet":
        hparams = {"batch_size": (32, LogUniform(3, 5, base=2, integer=True))}
    return type(name, (), {"hparams": hparams})


class Method:
    hparams: dict[str, Any] = {}
    hparams_on: dict[str, Any] = {}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{name: (ours, theirs)} where both have the name."""
    both = ours.keys() & theirs.keys()
    return {
        name: (ours[name], theirs[name])
        for name in both
        if ours[name] != theirs[name] or isinstance(ours[name], bool) != isinstance(theirs[name], bool)
    }


@pytest.mark.golden
@pytest.mark.parametrize("name", sorted({entry[0] for entry in GOLDEN} & set(registry.names("algorithms"))))
def test_domainbeds_values(name: str) -> None:
    entries = [entry for entry in GOLDEN if entry[0] == name]
    algorithm = registry.find("algorithms", name)
    for _, data, hparams_seed, trial_seed, theirs in entries:
        ours = resolve(algorithm, dataset(data), {}, hparams_seed, trial_seed)
        where = (name, data, hparams_seed, trial_seed)
        assert differences(ours, theirs) == {}, where
        assert theirs.keys() - ours.keys() <= BACKBONE, where


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        *(("RDM", data, 88) for data in ("PACS", "Camelyon17", "SpawriousO2O_easy", "Office31")),
        *(("RDM", data, 40) for data in ("DomainNet", "TerraIncognita")),
        *(("ARM", data, 8) for data in ("PACS", "DomainNet", "FMoW")),
        *((name, "RotatedMNIST", 64) for name in ("ARM", "RDM")),
    ],
)
def test_batches_of_their_own_are_those_of_image_folders(name: str, data: str, expected: int) -> None:
    """DomainBed, hparams_registry.py: 28-pixel images first, then ARM and RDM, then DomainNet."""
    method = registry.find("algorithms", name)
    assert resolve(method, registry.find("datasets", data), {})["batch_size"] == expected
    digits = registry.find("datasets", "RotatedDigits")
    assert resolve(method, digits, {})["batch_size"] == digits.hparams["batch_size"][0]


@pytest.mark.golden
def test_domainbeds_shared_values() -> None:
    """What every method has, for every data set: from the entries of ERM, which has nothing else."""
    entries = [entry for entry in GOLDEN if entry[0] == "ERM"]
    assert entries
    for _, data, hparams_seed, trial_seed, theirs in entries:
        ours = resolve(Method, dataset(data), {}, hparams_seed, trial_seed)
        assert differences(ours, theirs) == {}, (data, hparams_seed, trial_seed)
        assert ours.keys() - OURS == theirs.keys() - BACKBONE


@pytest.mark.parametrize("algorithm", registry.names("algorithms"))
def test_every_draw_is_plain_json(algorithm: str) -> None:
    cls = registry.find("algorithms", algorithm)
    for data in ("PACS", "RotatedMNIST", *registry.names("datasets")):
        for seed in range(4):
            values = resolve(cls, dataset(data), {}, hparams_seed=seed)
            assert json.loads(json.dumps(values, allow_nan=False)) == values
            plain = [v for value in values.values() for v in (value if type(value) is list else [value])]
            assert all(type(value) in (bool, int, float, str) for value in plain)
            assert resolve(cls, dataset(data), values) == values  # a record's values can be given again


@pytest.mark.parametrize(
    "range_, kind",
    [
        (Uniform(0, 1), float),
        (Uniform(0, 9, integer=True), int),
        (LogUniform(-5, -3), float),
        (LogUniform(3, 5, base=2, integer=True), int),
        (Choice((0.0, 0.1)), float),
        (Choice((1, 2)), int),
        (Choice((True, False)), bool),
        (Choice(("a", "b")), str),
    ],
)
def test_draws_are_python_values(range_: Any, kind: type) -> None:
    for seed in range(20):
        assert type(range_.draw(np.random.RandomState(seed))) is kind


def test_ranges() -> None:
    def draws(range_: Any) -> list[Any]:
        return [range_.draw(np.random.RandomState(seed)) for seed in range(200)]

    assert all(2 <= value < 5 for value in draws(Uniform(2, 5)))
    assert set(draws(Uniform(2, 5, integer=True))) == {2, 3, 4}
    assert all(1e-3 <= value < 1e-1 for value in draws(LogUniform(-3, -1)))
    assert set(draws(LogUniform(1, 2, base=2, integer=True))) == {2, 3}
    assert set(draws(Choice((1, 5, 7)))) == {1, 5, 7}


def test_a_draw_depends_on_its_own_name_and_the_seeds_alone() -> None:
    class More(Method):
        hparams = {"aaa": (1.0, Uniform(0, 1)), "zzz": (1.0, Uniform(0, 1))}

    few, many = (resolve(cls, dataset("Photos"), {}, 5, 2) for cls in (Method, More))
    assert few.items() < many.items()
    assert many["aaa"] != many["zzz"]
    expected = np.random.RandomState(seed_hash(seed_hash(5, 2), "aaa")).uniform(0, 1)
    assert many["aaa"] == expected
    assert resolve(More, dataset("Photos"), {}, 5, 3)["aaa"] != expected
    assert resolve(More, dataset("Photos"), {}, 6, 2)["aaa"] != expected


def test_later_wins() -> None:
    data = type("Photos", (), {"hparams": {"lr": (2.0, None), "weight_decay": (2.0, None), "k": (2, None)}})

    class Layers(Method):
        hparams = {"weight_decay": (3.0, None), "k": (3, None), "own": (3, None)}
        hparams_on = {"Photos": {"k": (4, None), "own": (4, None)}, "Other": {"own": (9, None)}}

    values = resolve(Layers, data, {"own": 5})
    assert values["batch_size"] == SHARED["batch_size"][0]
    assert (values["lr"], values["weight_decay"], values["k"], values["own"]) == (2.0, 3.0, 4, 5)
    assert resolve(Layers, data, {})["own"] == 4
    assert resolve(Layers, data, {"lr": 0.5}, hparams_seed=3)["lr"] == 0.5  # chosen wins over drawn
    assert list(declared(Layers, data)) == list(values)


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(
        UsageError, match=r"'ler'; did you mean lr\? choose from: batch_size, .*weight_decay$"
    ):
        resolve(Method, dataset("Photos"), {"ler": 1.0})


@pytest.mark.parametrize(
    "chosen",
    [
        {"lr": "1e-3"},
        {"lr": True},
        {"lr": None},
        {"batch_size": 8.0},
        {"batch_size": True},
        {"class_balanced": 1},
        {"class_balanced": "true"},
        {"lr": [1e-3]},
    ],
)
def test_wrong_types(chosen: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"wrong type; give a value of type (float|int|bool)$"):
        resolve(Method, dataset("Photos"), chosen)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "lr_gamma", "own"])
def test_numbers_that_are_not_finite(name: str, value: float) -> None:
    class Own(Method):
        hparams = {"own": (1.0, None)}

    with pytest.raises(UsageError, match=rf"^hyper-parameter {name}=.* is not a finite number$"):
        resolve(Own, dataset("Photos"), {name: value})


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum", "resnet_dropout", "featurizer_lr"])
def test_limits_of_shared_hyper_parameters(name: str) -> None:
    assert resolve(Method, dataset("Photos"), {name: 0})[name] == 0
    with pytest.raises(UsageError, match=rf"{name}=-0\.1 is out of range; give a value of at least 0"):
        resolve(Method, dataset("Photos"), {name: -0.1})
    if name in ("momentum", "resnet_dropout"):
        with pytest.raises(UsageError, match=r"at least 0 and below 1$"):
            resolve(Method, dataset("Photos"), {name: 1.5})


def test_a_batch_has_a_row() -> None:
    assert resolve(Method, dataset("Photos"), {"batch_size": 1})["batch_size"] == 1
    for value in (0, -1):
        with pytest.raises(
            UsageError, match=rf"batch_size={value} is out of range; give a value of at least 1"
        ):
            resolve(Method, dataset("Photos"), {"batch_size": value})


def test_an_integer_is_a_float() -> None:
    value = resolve(Method, dataset("Photos"), {"lr": 1})["lr"]
    assert value == 1.0 and type(value) is float


def test_options() -> None:
    class WithOption(Method):
        hparams = {"variant": ("a", Option(("a", "b")))}

    assert resolve(WithOption, dataset("Photos"), {}, hparams_seed=7)["variant"] == "a"  # never drawn
    assert resolve(WithOption, dataset("Photos"), {"variant": "b"})["variant"] == "b"
    with pytest.raises(UsageError, match=r"variant='c' is not a choice; choose from: a \| b"):
        resolve(WithOption, dataset("Photos"), {"variant": "c"})


def test_ranges_describe_themselves() -> None:
    assert str(LogUniform(3, 5.5, base=2, integer=True)) == "int(2^U(3, 5.5))"
    assert str(Uniform(0, 1)) == "U(0, 1)"
    assert str(Choice((0.0, 0.1))) == "one of 0.0, 0.1"
    assert str(Option(("a", "b"))) == "a | b"


def test_defaults_are_not_drawn_and_not_shared() -> None:
    first = resolve(Method, dataset("Photos"), {})
    first["lr"] = 9.0
    assert resolve(Method, dataset("Photos"), {})["lr"] == SHARED["lr"][0]
