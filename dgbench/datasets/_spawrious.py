"""Spawrious (Lynch et al. 2023, arXiv 2303.05470): dogs whose breed goes with a place, until the test.

The six benchmarks draw on the same images, ``spawrious224/{0,1}/PLACE/BREED/*.png``, 3,168 in each folder.
Differs from DomainBed: of a folder the first images by name are used, there in the order of the file system.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..dataset import Domain
from ..errors import UsageError
from ..folders import FolderDataset, image_files

BREEDS = ("bulldog", "dachshund", "labrador", "corgi")
PER_FOLDER = 3168
Folders = Iterator[tuple[str, str, int]]  # ("0/beach", breed, number of images)


class Spawrious(FolderDataset):
    """Four breeds; a test domain and two training domains."""

    folder = "spawrious224"
    domains = ("Test", "SC_group_1", "SC_group_2")
    columns: ClassVar[Mapping[str, str]] = {"SC_group_1": "SC1", "SC_group_2": "SC2"}
    num_classes = 4
    classes = tuple(sorted(BREEDS))
    counts = {"Test": 8 * PER_FOLDER, "SC_group_1": 4 * PER_FOLDER, "SC_group_2": 4 * PER_FOLDER}
    checkpoint_freq = 100
    places: ClassVar[Sequence[str]] = ()
    """The place of each of ``BREEDS`` in training, for M2M of both groups by turns."""
    test_places: ClassVar[Sequence[str]] = ()
    """The same in the test."""

    def load(self, names: Sequence[str]) -> list[Domain]:
        root = self.root(self.data_dir)
        return [self._domain(root, name, *self._listed(root, name)) for name in names]

    def image_names(self, domain: Domain) -> list[str]:
        """Paths below ``root``, each after the domain that it is in: "Test/0/snow/corgi/1.png"."""
        root = self.root(self.data_dir)
        paths, _ = self._listed(root, domain.name)
        return [f"{domain.name}/{path.relative_to(root).as_posix()}" for path in paths]

    def _listed(self, root: Path, name: str) -> tuple[list[Path], np.ndarray]:
        paths: list[Path] = []
        labels: list[int] = []
        for place, breed, number in sorted(self.folders_of(name)):
            own = image_files(root / place / breed)[:number]
            if not own:
                raise UsageError(f"no images in {root / place / breed}; Spawrious needs them for {name}")
            paths += own
            labels += [self.classes.index(breed)] * len(own)
        return paths, np.array(labels, np.int64)

    def folders_of(self, name: str) -> Folders:
        """Which images make the domain ``name``."""
        raise NotImplementedError


class OneToOne(Spawrious):
    """A breed goes with one place in 97 % and 87 % of the two training domains, else with ``filler``."""

    filler: ClassVar[str] = ""

    def folders_of(self, name: str) -> Folders:
        for i, breed in enumerate(BREEDS):
            if name == "Test":
                for part in (0, 1):
                    yield f"{part}/{self.test_places[i]}", breed, PER_FOLDER
            else:
                part = self.domains.index(name) - 1
                usual = int((0.97, 0.87)[part] * PER_FOLDER)
                yield f"{part}/{self.places[i]}", breed, usual
                yield f"{part}/{self.filler}", breed, PER_FOLDER - usual


class ManyToMany(Spawrious):
    """Two breeds share two places in training, by turns; in the test they are in the other two's."""

    def folders_of(self, name: str) -> Folders:
        groups = (0, 1) if name == "Test" else (self.domains.index(name) - 1,)
        places = self.test_places if name == "Test" else self.places
        for group in groups:
            for i, breed in enumerate(BREEDS):
                yield f"0/{places[i ^ group]}", breed, PER_FOLDER
