"""``--frozen``: features of a frozen backbone in the place of images, computed once and kept on disk.

A run with frozen features trains everything behind the backbone on its features in the evaluation view; no
image is decoded, augmented or passed through the backbone again. The features of a domain lie beside the
decoded images (``image_cache``), named by what they depend on: the images, the backbone, its weights, the
size. Random weights are drawn from seed 0, so that all runs share them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import files, networks
from .algorithm import Problem
from .dataset import Domain
from .loaders import Loader
from .machine import place
from .stream import Draw
from .tasks import Pool, Split

VERSION = 1  # raised when the features of the same backbone change
IN_MEMORY = 2**28
"""Bytes of a domain's features up to which they are read into memory; more are mapped."""


@dataclass(frozen=True)
class Source:
    """A frozen backbone. shape: (C, H, W) of its input. mean_std: of a channel of it, or None."""

    backbone: str
    pretrained: str
    shape: tuple[int, int, int]
    mean_std: tuple[Sequence[float], Sequence[float]] | None

    def of(self, split: Split, cache: str, device: torch.device) -> Split:
        """The split with features, (n, 1, 1, F) float32, for images. cache: "disk" keeps them."""
        domains = {name: self._domain(domain, cache, device) for name, domain in split.domains.items()}

        def swapped(pool: Pool) -> Pool:
            return replace(pool, domain=domains[pool.domain.name])

        return replace(
            split,
            labelled=tuple(map(swapped, split.labelled)),
            unlabelled=tuple(map(swapped, split.unlabelled)),
            evaluated={part: swapped(pool) for part, pool in split.evaluated.items()},
            pseudo={part: swapped(pool) for part, pool in split.pseudo.items()},
        )

    @property
    def weights(self) -> str:
        """A hash of the backbone's weights."""
        return _network(self)[1]

    def _domain(self, domain: Domain, cache: str, device: torch.device) -> Domain:
        if cache == "disk":
            path = self._path(domain)
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.held(path):  # another process may be computing them: wait, then read its file
                if not path.exists():
                    files.replace(path, lambda file: np.save(file, self._computed(domain, device)))
            features = np.load(path, mmap_mode="r" if path.stat().st_size > IN_MEMORY else None)
        else:
            features = self._computed(domain, device)
        return replace(domain, images=features[:, None, None, :], sizes=None)

    def _path(self, domain: Domain) -> Path:
        told = (VERSION, _content(domain), self, self.weights)
        key = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
        return files.cache_folder("features") / f"{domain.name}-{self.backbone}-{key}.npy"

    def _computed(self, domain: Domain, device: torch.device) -> np.ndarray:
        """(n, F) float32."""
        loader = Loader(Draw((), 1, ["none"]), 0, self.shape[-1], self.mean_std, device)
        network = _network(self)[0]
        place(network, device)
        images = loader.images(Pool(domain, 0, np.arange(len(domain)), None))
        with torch.inference_mode():
            return np.concatenate([network(x).float().cpu().numpy() for x in images])


def _content(domain: Domain) -> str:
    """Of the images as they are and in their order: a trial may draw them anew from the same content.

    Decoded files are told by their entry in ``image_cache``.
    """
    if isinstance(domain.images, np.memmap) and domain.images.filename is not None:
        return Path(domain.images.filename).parent.name
    return hashlib.sha256(np.ascontiguousarray(domain.images).data).hexdigest()


@lru_cache(maxsize=1)
def _network(source: Source) -> tuple[nn.Module, str]:
    """The backbone in evaluation mode, and the hash of its weights."""
    problem = Problem(source.shape, 2, 1, 1, 1, backbone=source.backbone, pretrained=source.pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = networks.featurizer(problem, {"resnet_dropout": 0.0}).eval()
    return network, weights_hash(network)


def weights_hash(module: nn.Module) -> str:
    """8 hex digits of the SHA-256 of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:8]
