"""Adjustments of colour, for a batch of images at once, each with its own factor; all in place.

x: float32 (n, C, H, W) in [0, 1]. factor: (n,). The formulas are torchvision's and Pillow's, without their
rounding to 256 levels.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from ..devices import moved

Adjustment = Callable[[Tensor, Tensor], Tensor]

ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # of brightness, contrast, saturation, hue


def jitter_factors(uniforms: Tensor, strength: tuple[float, float, float, float]) -> Tensor:
    """ColorJitter's factors (n, 4) from uniforms (n, 4): brightness, contrast, saturation, shift of hue."""
    shift = (2 * uniforms - 1) * uniforms.new_tensor(strength)
    return shift + shift.new_tensor([1, 1, 1, 0])


def orders(uniforms: Tensor) -> Tensor:
    """The order (n, 4) of the adjustments from uniforms (n,)."""
    return ORDERS.to(uniforms.device)[(uniforms * len(ORDERS)).long()]


def order_numbers(orders: Tensor) -> Tensor:
    """A number (n,) per order: equal numbers, equal orders."""
    return orders @ orders.new_tensor([64, 16, 4, 1])


def color_jitter(
    x: Tensor, factors: Tensor, orders: Tensor, adjustments: Sequence[Adjustment] = ()
) -> Tensor:
    """The adjustments (default: ``ADJUST``), each image in its own order; factors and orders (n, 4)."""
    adjustments = adjustments or ADJUST
    columns = factors.unbind(1)
    for step, kinds in enumerate(zip(*orders.tolist(), strict=True)):
        for k in sorted(set(kinds)):
            if k < len(adjustments):
                rows = None if len(set(kinds)) == 1 else orders[:, step] == k
                on_rows(x, rows, adjustments[k], columns[k])
    return x


@cache
def turns(device: torch.device) -> Tensor:
    """Of the hue to each channel, and past zero: (1, 3, 1, 1)."""
    return 2.5 + torch.tensor([0, -1 / 3, 1 / 3], device=device).view(1, 3, 1, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """x times factor."""
    return x.mul_(per_image(factor, x)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """x away from its mean grey level by factor."""
    factor, mean = per_image(factor, x), luma(x.mean((2, 3), keepdim=True))
    return x.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """x away from its grey version by factor."""
    factor = per_image(factor, x)
    grey = luma(x).mul_(1 - factor)
    return x.mul_(factor).add_(grey).clamp_(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """x (n, 3, H, W) with its hue, a circle of length 1, shifted; value and chroma stay.

    With red, green and blue scaled to [0, 1] by their extremes, the hue h obeys
    |h - 1/2| = 1/3 + (red - green - blue) / 6, and h > 1/2 where blue > green. A channel whose opposite
    hue lies k away from h has the value clamp(6 k - 1, 0, 1), that is 6 clamp(k, 1/6, 1/3) - 1.
    """
    red, green, blue = x.unbind(1)
    high, low = torch.maximum(red, green), torch.minimum(red, green)
    torch.maximum(high, blue, out=high)
    torch.minimum(low, blue, out=low)
    hue = (red - green).sub_(blue).add_(low)  # from here on of h - 1/2
    chroma = high.sub(low).mul_(6).clamp_(min=1e-7)  # six times
    hue.div_(chroma).add_(1 / 3).copysign_(torch.sub(blue, green, out=low))
    torch.add(hue[:, None], per_image(shift, x) + turns(x.device), out=x)
    x.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    high.sub_(chroma, alpha=1 / 3)
    return torch.addcmul(high[:, None], x, chroma[:, None], out=x)


ADJUST: tuple[Adjustment, ...] = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
ADJUST_GREY = ADJUST[:2]


def to_grey(x: Tensor) -> Tensor:
    """x with every channel replaced by its grey version."""
    return x.copy_(luma(x).expand_as(x))


def luma(x: Tensor) -> Tensor:
    """Grey version (n, 1, H, W): ITU-R 601 with torchvision's digits; of one or two channels, their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def gaussian_blur(x: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """x blurred by Gaussians of standard deviation sigma (n,) pixels, at most ``largest``.

    Cut off at 3 times ``largest``, so that it is one convolution; edges are mirrored.
    """
    n, channels, height, width = x.shape
    radius = min(math.ceil(3 * largest), height - 1, width - 1)
    at = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (at / per_image(sigma, x)) ** 2)
    kernel = (kernel / kernel.sum(3, keepdim=True)).expand(n, channels, 1, -1).reshape(n * channels, 1, 1, -1)
    y = torch.nn.functional.pad(x, (radius, radius, radius, radius), mode="reflect")
    y = y.view(1, n * channels, *y.shape[2:])
    y = torch.conv2d(torch.conv2d(y, kernel, groups=n * channels), kernel.mT, groups=n * channels)
    return x.copy_(y.view_as(x)).clamp_(0, 1)


def on_rows(x: Tensor, rows: Tensor | None, function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
    """x with the chosen rows, a mask (n,), or all, put through ``function(x, *factors)``, in place."""
    index = None if rows is None else rows.nonzero()[:, 0]
    if index is None or len(index) == len(x):
        return function(x, *factors)
    if not len(index):
        return x
    first, last = int(index[0]), int(index[-1]) + 1
    if last - first == len(index):  # neighbours: no copies
        function(x[first:last], *(factor[first:last] for factor in factors))
    else:
        at = moved(index, x.device)
        some = x.index_select(0, at)
        function(some, *(factor[index] for factor in factors))
        x.index_copy_(0, at, some)
    return x


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """(n,) numbers as (n, 1, 1, 1), beside x."""
    return moved(values.to(x.dtype), x.device).view(-1, 1, 1, 1)
