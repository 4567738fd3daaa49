"""The interface of a data set. Nothing here or in ``datasets/`` imports torch."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .errors import UsageError
from .hparams import Declared


@dataclass(frozen=True)
class Domain:
    """One domain, decoded.

    images: uint8 array (n, H, W, C), in memory or memory-mapped; features (n, 1, 1, F) float32 of a frozen
    backbone in their place. labels: int64 (n,).
    sizes: (n, 2) int32, width and height of the original images where they were resized, else None.
    fingerprint: hash of the content that the domain was made from; equal content, equal text.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    fingerprint: str
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


class DataWarning(UserWarning):
    """The data on disk is not what the data set declares, but usable."""


class Dataset:
    """A benchmark's data: named domains over the same classes.

    A subclass in ``datasets/<name>.py`` declares the attributes and implements ``load``. Its name is the
    one on the command line.
    """

    domains: ClassVar[tuple[str, ...]] = ()
    """Domain names in the order of the papers' columns, which is DomainBed's environment index."""
    columns: ClassVar[Mapping[str, str]] = {}
    """{domain: heading in tables}; the domain's own name where it is missing."""
    num_classes: int = 0
    input_shape: ClassVar[tuple[int, int, int] | None] = None
    """(C, H, W) of the images, H = W, or None where ``--image_size`` decides."""
    mean_std: ClassVar[tuple[Sequence[float], Sequence[float]] | None] = None
    """(mean, std) of the channels, after scaling to [0, 1], that images are normalised with, where
    ``input_shape`` is given; None leaves them. Elsewhere the backbone decides."""
    image_size: ClassVar[int] = 224
    """Default of ``--image_size`` in pixels, where it decides."""
    steps: ClassVar[int] = 5001
    checkpoint_freq: ClassVar[int] = 300
    backbone: ClassVar[str] = "resnet50"
    hparams: ClassVar[Declared] = {}
    published_as: ClassVar[str] = ""
    """Its name in the files of published numbers, where it is another."""
    ks: ClassVar[tuple[int, ...]] = (1, 5, 15)
    """Of P@k, how ``retrieval`` is scored."""
    validation: ClassVar[str | None] = None
    """The domain that ``single_source`` validates on, where the data set has one."""
    sampling: ClassVar[str] = "replacement"
    """How batches are drawn, one of ``stream.SAMPLINGS``."""
    views: ClassVar[Mapping[str, str]] = {
        "train": "none",
        "weak": "weak_digits",
        "strong": "strong_digits",
        "two": "moco_digits",
    }
    """{purpose: name in ``views``}. "train": labelled images, where the hyper-parameter data_augmentation is
    on. "weak", "strong": methods with pseudo-labels. "two": drawn twice, for instance discrimination."""

    def __init__(
        self,
        data_dir: Path | None,
        trial_seed: int = 0,
        image_size: int | None = None,
        cache: str = "disk",
    ) -> None:
        """data_dir: the folder that holds data sets. trial_seed: seeds what a construction draws.

        cache: how decoded image files are kept, one of ``image_cache.CACHES``.
        """
        self.data_dir = Path(data_dir) if data_dir is not None else None
        self.trial_seed = trial_seed
        self.size = image_size or self.image_size
        self.cache = cache
        self.num_classes = self.count_classes(self.data_dir)
        self.warnings: list[str] = []  # one line each, for the run's log

    @classmethod
    def domain_names(cls, data_dir: Path | None) -> tuple[str, ...]:
        """The domains; a data set found on disk (``ImageFolders``) looks there."""
        return cls.domains

    @classmethod
    def count_classes(cls, data_dir: Path | None) -> int:
        """The number of classes; a data set found on disk (``ImageFolders``) looks there."""
        return cls.num_classes

    @classmethod
    def count(cls, name: str, data_dir: Path | None) -> int:
        """The images of a domain, before anything is decoded; data sets of image files know."""
        raise UsageError(f"the images of {cls.__name__} are not counted before they are made; give --steps")

    def class_names(self) -> tuple[str, ...]:
        """The classes in words, in the order of the labels; empty where they have none."""
        return ()

    def load(self, names: Sequence[str]) -> list[Domain]:
        """The named domains, decoded. ``UsageError`` names what is missing or damaged."""
        raise NotImplementedError

    def image_names(self, domain: Domain) -> list[str]:
        """What each image of a loaded domain is called: "domain/hash of its pixels", equal ones numbered."""
        names, seen = [], Counter[str]()
        for image in domain.images:
            name = f"{domain.name}/{hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()}"
            names.append(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        return names

    def warn(self, text: str) -> None:
        """Issue a ``DataWarning`` of one line and keep it in ``self.warnings``."""
        self.warnings.append(text)
        warnings.warn(text, DataWarning, stacklevel=3)
