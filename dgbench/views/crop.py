"""Boxes of images, and their pixels: crops, flips, translations and scaling in one sampling."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..devices import moved

RATIO = (3 / 4, 4 / 3)  # of a random resized crop: width / height


class Places(NamedTuple):
    """Where ``size`` samples lie along one axis, L pixels long, of images of C channels.

    rows: int64 (n, 2, C * size), the pixels before and after, counted from the image's first through its
    planes, channel * L + pixel. fraction: float32 (n, 1, size, 1), how far it is to the one after.
    """

    rows: Tensor
    fraction: Tensor


Shape = tuple[int, int, int]
"""height, width and channels of stored images"""


def crop_boxes(uniforms: Tensor, sizes: Tensor, scale: tuple[float, float]) -> Tensor:
    """RandomResizedCrop's boxes (n, 4): left, top, width, height in whole pixels of the original image.

    uniforms (n, 22): ten pairs (area, aspect), of which the first that fits is used, and the position.
    sizes (n, 2): width, height. scale: range of the box's share of the area.
    Where none fits: the largest central box within the range of aspects, as in torchvision.
    """
    limit = sizes.double()
    area = limit.prod(1, keepdim=True) * (scale[0] + (scale[1] - scale[0]) * uniforms[:, 0:20:2])  # (n, 10)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    aspect = torch.exp(low + (high - low) * uniforms[:, 1:20:2])
    tries = torch.stack([(area * aspect).sqrt().round(), (area / aspect).sqrt().round()], 2)  # (n, 10, 2)
    fits = ((tries > 0) & (tries <= limit[:, None])).all(2)
    first = fits.int().argmax(1)
    box = tries[torch.arange(len(tries), device=tries.device), first]
    corner = (uniforms[:, 20:22] * (limit - box + 1)).floor()
    longest = limit.flip(1) * limit.new_tensor([RATIO[1], 1 / RATIO[0]])
    central = torch.minimum(limit, longest).round()
    none = ~fits.any(1, keepdim=True)
    corner = torch.where(none, ((limit - central) / 2).floor(), corner)
    return torch.cat([corner, torch.where(none, central, box)], 1)


def random_resized(
    uniforms: Tensor,
    flip: Tensor,
    size: int,
    stored: Shape,
    sizes: Tensor | None,
    scale: tuple[float, float],
) -> tuple[Tensor, ...]:
    """Places, along x and y, of RandomResizedCrop and, where ``flip`` (n,), a mirror.

    Boxes are drawn on the original images, of ``sizes`` (n, 2), and found in the stored ones.
    """
    limit = uniforms.new_tensor([stored[1], stored[0]])
    original = limit.expand(len(uniforms), 2) if sizes is None else sizes.to(uniforms)
    box = crop_boxes(uniforms, original, scale) * (limit / original).repeat(1, 2)
    return box_places(box, flip, size, stored, inside=True)


def box_places(box: Tensor, flip: Tensor, size: int, stored: Shape, inside: bool) -> tuple[Tensor, ...]:
    """Places, along x, mirrored where ``flip`` (n,), and along y, of boxes (n, 4) in stored pixels.

    inside: at a box's border, its own last pixel goes on; otherwise what lies beyond in the image. Bilinear
    without antialiasing, as torchvision samples a tensor. Returns four tensors, for ``sample``.
    """
    centre = (torch.arange(size, dtype=box.dtype, device=box.device) + 0.5) / size
    both: list[Tensor] = []
    for axis, length in enumerate((stored[1], stored[0])):
        start, extent = box[:, axis, None], box[:, 2 + axis, None]
        first, last = (start, start + extent - 1) if inside else (start * 0, start * 0 + length - 1)
        at = torch.clamp(start + centre * extent - 0.5, first.clamp(min=0), last.clamp(0, length - 1))
        at = torch.where(flip[:, None], at.flip(1), at) if axis == 0 else at
        low = at.floor()
        rows = torch.stack([low, (low + 1).clamp(max=length - 1)], 1).long()  # (n, 2, size)
        planes = torch.arange(0, stored[2] * length, length, device=box.device)[:, None]
        both += [(rows[:, :, None] + planes).flatten(2), (at - low).float()[:, None, :, None]]
    return tuple(both)


def sample(images: Tensor, plan: Sequence[Tensor]) -> Tensor:
    """Pixels of uint8 images (n, H, W, C) at every x and y: float32 (n, C, x, y) in [0, 1].

    plan: begins with the places along x and those along y, as ``box_places`` gives them. Columns before
    rows: whoever stores the result turns it, at no cost of its own.
    """
    x, y = Places(*plan[:2]), Places(*plan[2:4])
    rows = _sample_rows(images.permute(0, 3, 1, 2).contiguous(), y)  # (n, C, size, W)
    return _sample_rows(rows.transpose(2, 3).contiguous(), x).mul_(1 / 255)


def _sample_rows(x: Tensor, at: Places) -> Tensor:
    """Rows of x (n, C, H, W) at fractional places: float32 (n, C, size, W).

    Copying whole rows is many times faster than gathering pixels.
    """
    n, channels, height, width = x.shape
    start = torch.arange(0, n * channels * height, channels * height, device=x.device).view(n, 1, 1)
    rows = (moved(at.rows, x.device) + start).flatten()
    both = x.view(-1, width).index_select(0, rows).float().view(n, 2, channels, -1, width)
    return torch.lerp(both[:, 0], both[:, 1], moved(at.fraction, x.device))


def whole(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, H, W, C) as float32 (n, C, size, size) in [0, 1], scaled as torchvision does."""
    n, height, width, channels = images.shape
    x = torch.empty(n, channels, height, width, device=images.device)
    x.copy_(images.permute(0, 3, 1, 2)).mul_(1 / 255)
    if (height, width) == (size, size):
        return x
    return torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
