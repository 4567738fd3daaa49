"""The weak view of FixMatch, as Dassl and the SSDG benchmark define it for images of objects."""

from functools import partial

import torch
from torch import Tensor

from . import crop
from .view import Plan, View

ENLARGED = 1.125


def plan(uniforms: Tensor, size: int, stored: crop.Shape, sizes: Tensor | None, flips: bool) -> Plan:
    """Columns of uniforms: flip, whether to translate, and where to, along x and y."""
    flip = uniforms[:, 0] < 0.5 * flips
    return crop.box_places(boxes(uniforms, size, stored), flip, size, stored, inside=False)


def boxes(uniforms: Tensor, size: int, stored: crop.Shape) -> Tensor:
    """Boxes (n, 4) in stored pixels: of size x size pixels of the enlarged image, or the whole."""
    limit = uniforms.new_tensor([stored[1], stored[0]])
    enlarged = int(size * ENLARGED)
    corner = (uniforms[:, 2:] * (enlarged - size)).round()
    box = torch.cat([corner, torch.full_like(corner, size)], 1) * (limit / enlarged).repeat(2)
    whole = torch.cat([limit * 0, limit])
    return torch.where(uniforms[:, 1:2] < 0.5, box, whole)


def pixels(images: Tensor, plan: Plan, size: int) -> Tensor:
    return crop.sample(images, plan).transpose(2, 3)


VIEW = View(4, partial(plan, flips=True), pixels)
"""RandomHorizontalFlip; of 50 % a random translation: scaled to 1.125 times the size, then a random crop."""

OF_DIGITS = View(4, partial(plan, flips=False), pixels)
"""The translation only, for any number of channels."""
