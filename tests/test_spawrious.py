"""Spawrious: which images make its domains; and FMoW, whose regions may lack a class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench import build, label_split, registry, train
from dgbench.datasets import _spawrious
from dgbench.datasets.fmow import FMoW
from dgbench.datasets.spawriousm2m_easy import SpawriousM2M_easy
from dgbench.datasets.spawriouso2o_easy import SpawriousO2O_easy
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.spec import RunSpec

SIX = [f"Spawrious{kind}_{level}" for kind in ("O2O", "M2M") for level in ("easy", "medium", "hard")]


@pytest.mark.parametrize("name", SIX)
def test_the_counts_and_the_shift(name: str) -> None:
    dataset = registry.find("datasets", name)(None)
    places: dict[str, dict[str, set[str]]] = {}
    for domain in dataset.domains:
        chosen = list(dataset.folders_of(domain))
        assert sum(number for _, _, number in chosen) == dataset.counts[domain]
        for place, breed, number in chosen:
            if number > 500:  # no filler
                places.setdefault(domain, {}).setdefault(breed, set()).add(place.split("/")[1])
    for breed in _spawrious.BREEDS:
        train = places["SC_group_1"][breed] | places["SC_group_2"][breed]
        assert len(train) == (1 if "O2O" in name else 2)
        assert not train & places["Test"][breed]


def _images(root: Path, folder: str, number: int) -> None:
    (root / folder).mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / folder / f"{i:02}.png")


@pytest.fixture
def o2o(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of SpawriousO2O_easy 20 images in each folder."""
    monkeypatch.setattr(_spawrious, "PER_FOLDER", 20)
    for part in "01":
        for place in ("beach", "desert", "dirt", "jungle", "snow"):
            for breed in _spawrious.BREEDS:
                _images(tmp_path / "spawrious224", f"{part}/{place}/{breed}", 20)
    return tmp_path


def test_o2o_takes_the_first_images_of_each_folder(o2o: Path) -> None:
    dataset = SpawriousO2O_easy(o2o, image_size=4, cache="none")
    with pytest.warns(UserWarning, match="the complete domain has") as told:
        first, second, test = dataset.load(["SC_group_1", "SC_group_2", "Test"])
    assert len(told) == 3
    for domain, usual in ((first, 19), (second, 17)):
        assert np.bincount(domain.labels).tolist() == [20] * 4
        reds = [int(domain.images[i][0, 0, 0]) for i in np.flatnonzero(domain.labels == 0)]
        assert sorted(reds) == sorted([*range(usual), *range(20 - usual)])
    assert np.bincount(test.labels).tolist() == [40] * 4
    assert len({first.fingerprint, second.fingerprint, test.fingerprint}) == 3


@pytest.mark.filterwarnings("ignore:.*the complete domain has")
def test_a_run_and_its_labelled_images(o2o: Path) -> None:
    flags = "--dataset SpawriousO2O_easy --test_envs Test --image_size 4 --labels_per_class 2 --data_dir"
    assert label_split.main([*flags.split(), str(o2o), "--output", str(o2o / "split.json")]) == 0
    written = label_split.read(o2o / "split.json")
    assert sum(name.startswith("SC_group_2/1/") for name in written.labelled) == 2 * 4
    given = {"test_envs": ("Test",), "image_size": 4, "backbone": "mnist_cnn", "pretrained": "none"}
    spec = RunSpec("SpawriousO2O_easy", "FixMatch", "semi_supervised", **given, labels_per_class=2, steps=1)
    read = replace(spec, labels_per_class=1, label_split=written.identity)
    machine = Machine(device="cpu", data_dir=o2o, cache="none", label_split=o2o / "split.json")
    own, other = (train.run(s, o2o / s.run_id(), machine) for s in (spec, read))
    assert own["metrics"] == other["metrics"]
    assert build.build(spec.resolved(o2o), machine).algorithm.problem.class_names == (
        "bulldog",
        "corgi",
        "dachshund",
        "labrador",
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    _images(tmp_path / "spawrious224", "0/desert/bulldog", 2)
    with pytest.raises(UsageError, match=r"no images in .*spawrious224/0/"):
        SpawriousM2M_easy(tmp_path).load(["SC_group_1"])


def test_a_region_of_fmow_may_lack_a_class(tmp_path: Path) -> None:
    for i in range(62):
        _images(tmp_path / "fmow", f"Asia/class{i:02}", 1)
    _images(tmp_path / "fmow", "Oceania/class61", 2)
    asia, oceania = FMoW(tmp_path, image_size=4, cache="none").load(["Asia", "Oceania"])
    assert asia.labels.tolist() == list(range(62)) and oceania.labels.tolist() == [61, 61]
