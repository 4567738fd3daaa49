"""Spawrious: which images make its domains; and FMoW, whose regions may lack a class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench import registry
from dgbench.datasets import _spawrious
from dgbench.datasets.fmow import FMoW
from dgbench.datasets.spawriousm2m_easy import SpawriousM2M_easy
from dgbench.datasets.spawriouso2o_easy import SpawriousO2O_easy
from dgbench.errors import UsageError

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


def test_o2o_takes_the_first_images_of_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spawrious, "PER_FOLDER", 20)
    for part in "01":
        for place in ("beach", "desert", "dirt", "jungle", "snow"):
            for breed in _spawrious.BREEDS:
                _images(tmp_path / "spawrious224", f"{part}/{place}/{breed}", 20)
    dataset = SpawriousO2O_easy(tmp_path, image_size=4, cache="none")
    with pytest.warns(UserWarning, match="the complete domain has") as told:
        first, second, test = dataset.load(["SC_group_1", "SC_group_2", "Test"])
    assert len(told) == 3
    for domain, usual in ((first, 19), (second, 17)):
        assert np.bincount(domain.labels).tolist() == [20] * 4
        reds = [int(domain.images[i][0, 0, 0]) for i in np.flatnonzero(domain.labels == 0)]
        assert sorted(reds) == sorted([*range(usual), *range(20 - usual)])
    assert np.bincount(test.labels).tolist() == [40] * 4
    assert len({first.fingerprint, second.fingerprint, test.fingerprint}) == 3


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
