"""Data sets of image files: ``root/domain/class/image``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from . import image_cache
from .dataset import Dataset, Domain
from .errors import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's, so that the same files count as images."""


class FolderDataset(Dataset):
    """A data set of image files. Every domain holds the same class folders; classes are sorted by name.

    Images are in the order of torchvision's ``ImageFolder``, so that DomainBed's split indices hold.
    """

    folder: ClassVar[str] = ""
    """DomainBed's name of the data set's folder; the class's own name is found too."""
    counts: ClassVar[Mapping[str, int]] = {}
    """{domain: images} of the complete data set; another number on disk is a warning."""
    classes: ClassVar[tuple[str, ...]] = ()
    """The folders that are classes, sorted; all of them where it is empty."""
    every_class: ClassVar[bool] = True
    """Whether every domain holds every class; a missing one is then an error."""
    views: ClassVar[Mapping[str, str]] = {
        "train": "domainbed",
        "weak": "weak",
        "strong": "strong",
        "two": "moco",
    }

    @classmethod
    def root(cls, data_dir: Path | None) -> Path:
        """The folder that holds the domains."""
        if data_dir is None:
            raise UsageError(f"{cls.__name__} needs --data_dir, the folder that holds {cls.folder}")
        for name in (cls.folder, cls.__name__):
            if subfolders(Path(data_dir) / name):
                return Path(data_dir) / name
        raise UsageError(
            f"no images of {cls.__name__} in {Path(data_dir) / cls.folder}; "
            f"get them: python -m dgbench.download --dataset {cls.__name__} --data_dir {data_dir}"
        )

    @classmethod
    def count(cls, name: str, data_dir: Path | None) -> int:
        """Of the complete domain, else what is on disk, else as in the largest domain that is known."""
        if name in cls.counts:
            return cls.counts[name]
        if data_dir is None or not (folder := cls.root(data_dir) / name).is_dir():
            return max(cls.counts.values(), default=0)
        return sum(len(image_files(folder / own)) for own in cls.classes or subfolders(folder))

    def load(self, names: Sequence[str]) -> list[Domain]:
        root = self.root(self.data_dir)
        present = subfolders(root)
        for name in names:
            if name not in present:
                raise UsageError(f"no domain {name!r} in {root}; present: {', '.join(present)}")
        classes = self._classes(root)
        listed = [
            _images(root / name, classes, self.every_class) for name in names
        ]  # all, before anything is decoded
        return [self._domain(root, name, *images) for name, images in zip(names, listed, strict=True)]

    def class_names(self) -> tuple[str, ...]:
        return tuple(self._classes(self.root(self.data_dir)))

    def image_names(self, domain: Domain) -> list[str]:
        """Paths below ``root``: "domain/class/image.jpg"."""
        root = self.root(self.data_dir)
        paths, _ = _images(root / domain.name, self._classes(root), self.every_class)
        return [path.relative_to(root).as_posix() for path in paths]

    def _classes(self, root: Path) -> list[str]:
        if self.classes:
            return list(self.classes)
        domains = [name for name in self.domain_names(self.data_dir) if (root / name).is_dir()]
        classes = sorted({name for domain in domains for name in subfolders(root / domain)})
        if len(classes) != self.num_classes:
            some = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise UsageError(
                f"{root} has {len(classes)} classes ({some}), but {type(self).__name__} has "
                f"{self.num_classes}; for other data use --dataset ImageFolders"
            )
        return classes

    def _domain(self, root: Path, name: str, paths: list[Path], labels: np.ndarray) -> Domain:
        expected = self.counts.get(name, len(paths))
        if len(paths) != expected:
            self.warn(
                f"{type(self).__name__}: {root / name} has {len(paths)} images, the complete domain has "
                f"{expected}; numbers are not comparable with published ones"
            )
        title = f"{type(self).__name__} {name}"
        decoded = image_cache.load(title, root, paths, self.size, self.cache)
        return Domain(name, decoded.images, labels, decoded.fingerprint, decoded.sizes)


def subfolders(path: Path) -> list[str]:
    """Sorted names of the folders in ``path``, without hidden ones; empty if there is no such folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The images in ``folder`` and below, in torchvision's order."""
    return [
        Path(inner) / file
        for inner, _, files in sorted(os.walk(folder, followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(EXTENSIONS)
    ]


def _images(domain: Path, classes: Sequence[str], every: bool) -> tuple[list[Path], np.ndarray]:
    """Paths in torchvision's order, and labels (n,): indices into ``classes``."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = image_files(domain / name)
        if not own and every:
            raise UsageError(
                f"the domain {domain.name!r} has no images of the class {name!r} in {domain / name}"
            )
        paths += own
        labels += [label] * len(own)
    if not paths:
        raise UsageError(f"the domain {domain.name!r} has no class folders in {domain}")
    return paths, np.array(labels, np.int64)
