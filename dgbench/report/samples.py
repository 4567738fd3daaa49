"""Sample pictures of a data set: a strip of small images per domain, one for each of the first classes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import registry
from ..dataset import Domain
from ..errors import UsageError
from .page import Html, captioned, join, tag

CLASSES, PIXELS = 8, 48


def of_dataset(name: str, domains: list[str], data_dir: Path | None) -> Html:
    """A strip per domain, or in one line why there is none."""
    try:
        cls: Any = registry.find("datasets", name)
        size = None if cls.input_shape else PIXELS
        dataset = cls(data_dir, image_size=size, cache="none")
        strips = [_strip(domain) for domain in dataset.load(domains)]
    except UsageError as error:
        return tag("p", f"No sample pictures of {name}: {error}", class_="words")
    return tag("div", join(strips), class_="figures pictures")


def _strip(domain: Domain) -> Html:
    first = [int(np.flatnonzero(domain.labels == label)[0]) for label in np.unique(domain.labels)[:CLASSES]]
    images = np.asarray(domain.images[np.array(first)])
    tiles = [
        np.asarray(picture(image).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)) for image in images
    ]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(out, "PNG", optimize=True)
    return captioned(out.getvalue(), "png", f"{domain.name}: the first image of {len(first)} classes")


def picture(image: np.ndarray) -> Image.Image:
    """RGB of an (H, W, C) array; two channels (coloured digits) are red and green."""
    channels = image.shape[2]
    if channels == 2:
        image = np.concatenate([image, np.zeros_like(image[..., :1])], axis=2)
    elif channels == 1:
        image = np.repeat(image, 3, axis=2)
    return Image.fromarray(np.ascontiguousarray(image.astype(np.uint8)))
