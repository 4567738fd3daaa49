"""What a view is. Its random parameters come from ``uniforms`` alone, one row per image.

So whoever seeds them decides the images, and row r of the result depends on row r of the arguments only.
A view is a plan, the parameters of the whole batch at once, and pixels, the work on a chunk of images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..devices import moved
from . import chunks, crop

Plan = Sequence[Tensor]  # of shape (n, ...)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalize:
    """x (n, C, H, W) in [0, 1] -> (x - mean) / std of every channel."""

    mean: Sequence[float]
    std: Sequence[float]

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor]:
        scale = 1 / torch.tensor(self.std, dtype=torch.float64)
        offset = -torch.tensor(self.mean, dtype=torch.float64) * scale
        return offset.float().view(-1, 1, 1), scale.float().view(-1, 1, 1)

    def __call__(self, x: Tensor, white: float = 1.0) -> Tensor:
        """The normalised x, in place; white: its highest level."""
        offset, scale = (moved(term, x.device) for term in self._terms)
        return x.mul_(scale / white).add_(offset)


@dataclass(frozen=True)
class View:
    """``view(images, uniforms, size, sizes, normalize)``; draws: columns of ``uniforms`` that it uses.

    plan: (uniforms, size, stored, sizes) -> parameters, where stored is the shape (H, W, C) of ``images``.
    pixels: (images, plan, size) -> a new float32 (n, C, size, size) in [0, 1], or uint8.
    alike: plan -> (n,) numbers; images with the same number take the same steps, and are worked on together.
    """

    draws: int
    plan: Callable[[Tensor, int, crop.Shape, Tensor | None], Plan]
    pixels: Callable[[Tensor, Plan, int], Tensor]
    alike: Callable[[Plan], Tensor] | None = None

    def __call__(
        self,
        images: Tensor,
        uniforms: Tensor,
        size: int,
        sizes: Tensor | None = None,
        normalize: Normalize | None = None,
    ) -> Tensor:
        """images: uint8 (n, H, W, C). uniforms: float64 (n, draws) in [0, 1). size: side of the result.

        sizes: (n, 2) width and height of the original images, or None where they are as stored.
        Returns float32 (n, C, size, size), in [0, 1] or normalised.
        """
        n, height, width, channels = images.shape
        if uniforms.shape != (n, self.draws):
            raise ValueError(f"uniforms {tuple(uniforms.shape)} are not ({n}, {self.draws})")
        with torch.inference_mode(False):  # also while evaluating: the result is an ordinary tensor
            out = torch.empty(n, channels, size, size, device=images.device)
        parts = chunks.rows(n, max(height * width, size**2), images.device)
        with torch.inference_mode(), chunks.single_thread():
            plan = self.plan(uniforms, size, (height, width, channels), sizes)
            alike = self.alike(plan) if self.alike and 1 < len(parts) < n else None
            order = None if alike is None else alike.sort(stable=True).indices
            for chunk in parts:
                rows = chunk if order is None else order[chunk]
                some = images[chunk] if order is None else _chosen(images, order[chunk])
                x = self.pixels(some, [value[rows] for value in plan], size)
                white = 255 if x.dtype == torch.uint8 else 1
                x = out[chunk].copy_(x) if order is None else x.float()
                if normalize:
                    normalize(x, white)
                elif white != 1:
                    x.mul_(1 / white)
                if order is not None:
                    out[rows] = x
        return out


def _chosen(images: Tensor, rows: Tensor) -> Tensor:
    """``images[rows]`` of images (n, H, W, C) that lie in memory as planes: each is copied in one piece."""
    return images.permute(0, 3, 1, 2).index_select(0, rows).permute(0, 2, 3, 1)
