"""The strong view of FixMatch (Sohn et al., NeurIPS 2020, arXiv 2001.07685): RandAugment and Cutout.

Operations and their ranges are those of Dassl's FixMatch and the SSDG benchmark. The operations are Pillow's
and, but for the first that finds levels already, rounded to 256 levels only where they need levels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import moved
from . import color, crop
from .view import Plan, View

COUNT = 2  # operations per image, drawn with replacement
HOLE = 16  # side of the cutout in pixels, of an image of 224 pixels


def autocontrast(x: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]; a channel of one level stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high <= low
    low, span = low.masked_fill(flat, 0), (high - low).masked_fill(flat, 1)
    return x.sub_(low).div_(span)


def equalize(x: Tensor, _: Tensor) -> Tensor:
    """Each channel mapped so that its 256 levels are about equally frequent, with Pillow's integers."""
    n, channels = x.shape[:2]
    level = _levels(x).long().flatten(2)
    counts = torch.zeros(n, channels, 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, level, torch.ones_like(level))
    highest = counts.new_tensor(range(1, 257)).mul(counts > 0).amax(2, keepdim=True) - 1
    step = (counts.sum(2, keepdim=True) - counts.gather(2, highest)) // 255
    table = (counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp(max=255), torch.arange(256, device=x.device))
    return x.copy_(table.gather(2, level).view_as(x)).mul_(1 / 255)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """The highest bits (n,), rounded down, of each level."""
    step = 2 ** (8 - color.per_image(bits, x).floor())
    return x.copy_(_levels(x)).div_(step).floor_().mul_(step / 255)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Levels of at least threshold (n,), of 256, inverted."""
    return x.copy_(torch.where(x * 255 < color.per_image(threshold, x) - 1e-3, x, 1 - x))


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """x away from its smoothed version by factor (n,); the outermost pixels stay."""
    factor, channels = color.per_image(factor, x), x.shape[1]
    kernel = x.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div_(13).expand(channels, 1, 3, 3)
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(x, kernel, groups=channels)
    return x.mul_(factor).add_(smooth.mul_(1 - factor)).clamp_(0, 1)


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """x turned counter-clockwise about its centre by degrees (n,)."""
    a = degrees * (math.pi / 180)
    ratio = x.shape[2] / x.shape[3]
    return affine(x, (a.cos(), -a.sin() * ratio, 0 * a), (a.sin() / ratio, a.cos(), 0 * a))


def shear_x(x: Tensor, v: Tensor) -> Tensor:
    """Row r of x is taken v * r pixels (n,) further right."""
    ratio = x.shape[2] / x.shape[3]
    return affine(x, (v * 0 + 1, v * ratio, v * ratio), (v * 0, v * 0 + 1, v * 0))


def shear_y(x: Tensor, v: Tensor) -> Tensor:
    """Column c of x is taken v * c pixels (n,) further down."""
    ratio = x.shape[3] / x.shape[2]
    return affine(x, (v * 0 + 1, v * 0, v * 0), (v * ratio, v * 0 + 1, v * ratio))


def translate_x(x: Tensor, v: Tensor) -> Tensor:
    """x taken v widths (n,) further right."""
    return affine(x, (v * 0 + 1, v * 0, 2 * v), (v * 0, v * 0 + 1, v * 0))


def translate_y(x: Tensor, v: Tensor) -> Tensor:
    """x taken v heights (n,) further down."""
    return affine(x, (v * 0 + 1, v * 0, v * 0), (v * 0, v * 0 + 1, 2 * v))


def affine(x: Tensor, row_x: tuple[Tensor, ...], row_y: tuple[Tensor, ...]) -> Tensor:
    """The nearest pixel at A (x, y, 1), of (n,) entries, from -1 to 1 across the image; black outside."""
    matrix = torch.stack([torch.stack(row_x, 1), torch.stack(row_y, 1)], 1).to(x)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return x.copy_(F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False))


class Operation(NamedTuple):
    """``function(x, magnitudes)`` in place, with magnitudes (n,) uniform in a range."""

    function: Callable[[Tensor, Tensor], Tensor]
    low: float = 0
    high: float = 0
    coloured: bool = False


OPERATIONS = (
    Operation(lambda x, _: x),
    Operation(autocontrast),
    Operation(equalize),
    Operation(color.adjust_brightness, 0.05, 0.95),
    Operation(color.adjust_contrast, 0.05, 0.95),
    Operation(sharpness, 0.05, 0.95),
    Operation(posterize, 4, 8),
    Operation(solarize, 0, 256),
    Operation(rotate, -30, 30),
    Operation(shear_x, -0.3, 0.3),
    Operation(shear_y, -0.3, 0.3),
    Operation(translate_x, -0.3, 0.3),
    Operation(translate_y, -0.3, 0.3),
    Operation(color.adjust_saturation, 0.05, 0.95, coloured=True),
)
GREY_OPERATIONS = tuple(op for op in OPERATIONS if not op.coloured)


def plan(
    uniforms: Tensor,
    size: int,
    stored: crop.Shape,
    sizes: Tensor | None,
    operations: tuple[Operation, ...],
    flips: bool,
) -> Plan:
    """Columns of uniforms: flip; the operations and their magnitudes; the hole's centre, along x and y."""
    flip, which, strength, hole = uniforms.split([1, COUNT, COUNT, 2], 1)
    chosen = (which * len(operations)).long()
    low, high = (uniforms.new_tensor([op[k] for op in operations]) for k in (1, 2))
    magnitudes = low[chosen] + (high - low)[chosen] * strength
    return flip[:, 0] < 0.5 * flips, chosen, magnitudes, (hole * size).floor()


def pixels(images: Tensor, plan: Plan, size: int, operations: tuple[Operation, ...]) -> Tensor:
    flip, chosen, magnitudes, hole = plan
    x = color.on_rows(crop.whole(images, size), flip, lambda some: some.copy_(some.flip(3)))
    for k in range(COUNT):
        for op in sorted(set(chosen[:, k].tolist())):
            color.on_rows(x, chosen[:, k] == op, operations[op].function, magnitudes[:, k])
    return cutout(x, hole, round(HOLE * size / 224))


def cutout(x: Tensor, centre: Tensor, length: int) -> Tensor:
    """x, black in squares of ``length`` pixels about whole pixels (n, 2), x and y, cut off at the borders."""
    places = torch.arange(x.shape[3], device=x.device)
    from_centre = places - moved(centre, x.device)[:, :, None]  # (n, 2, size)
    inside = (from_centre >= -(length // 2)) & (from_centre < length // 2)
    return x.masked_fill_((inside[:, 0, None] & inside[:, 1, :, None])[:, None], 0)


def alike(plan: Plan) -> Tensor:
    return plan[1][:, 0]


def _levels(x: Tensor) -> Tensor:
    return (x * 255).round_()


def _view(operations: tuple[Operation, ...], flips: bool) -> View:
    return View(
        3 + 2 * COUNT,
        partial(plan, operations=operations, flips=flips),
        partial(pixels, operations=operations),
        alike,
    )


VIEW = _view(OPERATIONS, flips=True)
"""RandomHorizontalFlip, two of 14 operations, a hole of 16 pixels at 224, scaled with the size."""

OF_DIGITS = _view(GREY_OPERATIONS, flips=False)
"""The same without flips and colour, for 1, 2 or 3 channels."""
