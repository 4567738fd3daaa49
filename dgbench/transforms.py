"""Views: batches of uint8 images to float images, augmented at once, without a loop over samples.

A view takes its random parameters from ``uniforms`` alone, one row per image, so that whoever seeds them
decides the images; row r of the result depends on row r of the arguments only.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class View:
    """``view(images, uniforms, size, sizes)``; draws: columns of ``uniforms`` that it uses.

    images: uint8 (N, H, W, C). uniforms: float64 (N, draws) in [0, 1). size: side of the result in pixels.
    sizes: (N, 2) width and height of the original images, or None where they are as stored.
    Returns float32 (N, C, size, size) in [0, 1].
    """

    draws: int
    apply: Callable[[Tensor, Tensor, int, Tensor | None], Tensor]

    def __call__(self, images: Tensor, uniforms: Tensor, size: int, sizes: Tensor | None = None) -> Tensor:
        if uniforms.shape != (len(images), self.draws):
            raise ValueError(f"uniforms {tuple(uniforms.shape)} are not ({len(images)}, {self.draws})")
        return self.apply(images, uniforms, size, sizes)


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std for every channel of x (N, C, H, W)."""
    shape = (1, -1, 1, 1)
    return (x - x.new_tensor(mean).view(shape)).div_(x.new_tensor(std).view(shape))


def plain(images: Tensor, uniforms: Tensor, size: int, sizes: Tensor | None) -> Tensor:
    """The evaluation view: the whole image."""
    x = _planes(images).float().mul_(1 / 255)
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x


def domainbed(images: Tensor, uniforms: Tensor, size: int, sizes: Tensor | None) -> Tensor:
    """DomainBed's training view: RandomResizedCrop(size, scale (0.7, 1)), RandomHorizontalFlip,
    ColorJitter(0.3, 0.3, 0.3, 0.3), RandomGrayscale(0.1), with the distributions of torchvision.

    Differs from DomainBed: the crop is drawn on the original image but taken from the stored one, which is
    already scaled to a square, so that crops of large images are a little softer; nothing is rounded to
    grey levels between the steps.
    """
    stored = torch.tensor([images.shape[2], images.shape[1]], device=uniforms.device)  # width, height
    original = stored.expand(len(images), 2) if sizes is None else sizes.to(uniforms.device)
    where, flip, jitter, order, gray = uniforms.split([22, 1, 4, 1, 1], dim=1)
    box = crop_boxes(where, original) * (stored / original).repeat(1, 2)
    flips, factors, grays = flip[:, 0] < 0.5, jitter_factors(jitter), gray[:, 0] < GRAY
    orders = ORDERS.to(order.device)[(order[:, 0] * len(ORDERS)).long()]
    out = images.new_empty((len(images), 3, size, size), dtype=torch.float32)
    chunk = max(1, CHUNK_PIXELS // size**2) if images.device.type == "cpu" else len(images)
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        x = crop_and_resize(images[rows], box[rows], flips[rows], size)
        x = color_jitter(x, factors[rows], orders[rows])
        out[rows] = _on_rows(x, grays[rows], adjust_saturation, torch.zeros(len(x)))
    return out


VIEWS = {"none": View(0, plain), "domainbed": View(29, domainbed)}
"""{name: view}: values of ``Dataset.augmentation``."""

CHUNK_PIXELS = 2**17  # images worked on together on a CPU, so that they stay in its cache
SCALE, RATIO = (0.7, 1.0), (3 / 4, 4 / 3)  # of a crop: share of the area; width / height
JITTER, GRAY = 0.3, 0.1
ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # of brightness, contrast, saturation, hue


def crop_boxes(uniforms: Tensor, sizes: Tensor) -> Tensor:
    """RandomResizedCrop's boxes (N, 4): left, top, width, height in whole pixels of the original image.

    uniforms (N, 22): ten pairs (area, aspect), of which the first that fits is used, and the position.
    Where none fits: the largest central box within the range of aspects, as in torchvision.
    """
    limit = sizes.double()  # (N, 2): width, height
    area = limit.prod(1, keepdim=True) * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniforms[:, 0:20:2])  # (N, 10)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    aspect = torch.exp(low + (high - low) * uniforms[:, 1:20:2])
    tries = torch.stack([(area * aspect).sqrt().round(), (area / aspect).sqrt().round()], 2)  # (N, 10, 2)
    fits = ((tries > 0) & (tries <= limit[:, None])).all(2)
    first = fits.int().argmax(1)
    box = tries[torch.arange(len(tries), device=tries.device), first]
    corner = (uniforms[:, 20:22] * (limit - box + 1)).floor()
    longest = limit.flip(1) * limit.new_tensor([RATIO[1], 1 / RATIO[0]])
    central = torch.minimum(limit, longest).round()
    none = ~fits.any(1, keepdim=True)
    corner = torch.where(none, ((limit - central) / 2).floor(), corner)
    return torch.cat([corner, torch.where(none, central, box)], 1)


def crop_and_resize(images: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """Boxes of uint8 images (N, H, W, C), scaled to size x size, mirrored where ``flip`` (N,).

    box: (N, 4) left, top, width, height in pixels. Bilinear, without antialiasing: the same as torchvision
    where a box is no larger than the result. Returns float32 (N, C, size, size) in [0, 1].
    """
    centre = (torch.arange(size, dtype=box.dtype, device=box.device) + 0.5) / size
    start, length = box[:, :2, None], box[:, 2:, None]  # (N, 2, 1)
    at = torch.clamp(start + centre * length - 0.5, start, start + length - 1)  # (N, 2, size)
    x = torch.where(flip[:, None], at[:, 0].flip(1), at[:, 0])
    rows = _sample_rows(_planes(images), at[:, 1])  # (N, C, size, W)
    return _sample_rows(rows.transpose(2, 3), x).transpose(2, 3).contiguous().mul_(1 / 255)


def _sample_rows(x: Tensor, at: Tensor) -> Tensor:
    """Rows of x (N, C, H, W) at fractional places (N, size), interpolated: float32 (N, C, size, W)."""
    n, channels, height, width = x.shape
    at = at.clamp(0, height - 1)
    low, fraction = at.long().to(x.device), at.frac().float().to(x.device)
    first = low[:, None] + torch.arange(n * channels, device=x.device).view(n, channels, 1) * height
    second = first + (low < height - 1).long()[:, None]
    flat = x.reshape(-1, width)  # copying whole rows is many times faster than gathering pixels
    a, b = (
        flat.index_select(0, rows.flatten()).float().view(n, channels, -1, width) for rows in (first, second)
    )
    return a.lerp_(b, fraction[:, None, :, None])


def jitter_factors(uniforms: Tensor) -> Tensor:
    """ColorJitter's factors (N, 4) from uniforms (N, 4): brightness, contrast, saturation, shift of hue."""
    shift = (2 * uniforms - 1) * JITTER
    return shift + shift.new_tensor([1, 1, 1, 0])


def color_jitter(x: Tensor, factors: Tensor, orders: Tensor) -> Tensor:
    """The four adjustments of x (N, 3, H, W), in place, each image in its own order; both (N, 4)."""
    for step in orders.unbind(1):
        for k, adjust in enumerate(ADJUST):
            x = _on_rows(x, step == k, adjust, factors[:, k])
    return x


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """x (N, 3, H, W) times factor (N,)."""
    return x.mul(_per_image(factor, x)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """x (N, 3, H, W) away from its mean grey level by factor (N,)."""
    return _blend(x, luma(x).mean(3, keepdim=True).mean(2, keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """x (N, 3, H, W) away from its grey version by factor (N,)."""
    return _blend(x, luma(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """x (N, 3, H, W) with its hue, a circle of length 1, shifted by shift (N,); value and chroma stay.

    With red, green and blue scaled to [0, 1] by their extremes, the hue h in sixths of the circle obeys
    |h - 3| = 2 + red - green - blue, and h > 3 where blue > green; a channel whose hue is k away from h is
    clamp(2 - |k|, 0, 1).
    """
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    hue = (red - green).sub_(blue).add_(low).div_(chroma.clamp(min=1e-8)).add_(2).copysign_(blue - green)
    hue += 6 * shift.to(x)[:, None, None]
    out = torch.empty_like(x)
    for channel, turn in enumerate((0, -2, 2)):
        k = hue + turn
        k -= torch.round(k * (1 / 6)).mul_(6)
        torch.addcmul(high, chroma, k.abs_().sub_(2).clamp_(-1, 0), out=out[:, channel])
    return out


def luma(x: Tensor) -> Tensor:
    """Grey version (N, 1, H, W) of x (N, 3, H, W): ITU-R 601, with torchvision's digits."""
    red, green, blue = x.split(1, 1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _per_image(factor, x)
    return (x * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x).view(-1, 1, 1, 1)


def _on_rows(x: Tensor, rows: Tensor, function: Callable[[Tensor, Tensor], Tensor], factor: Tensor) -> Tensor:
    """x with the chosen rows, a mask (N,), replaced by function(x, factor) of them; in place."""
    index = rows.nonzero()[:, 0]
    if len(index):
        at = index.to(x.device)
        x.index_copy_(0, at, function(x.index_select(0, at), factor[index]))
    return x


def _planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
