"""MoCo-v2's view (Chen et al. 2020, Improved Baselines with Momentum Contrastive Learning, 2003.04297)."""

from functools import partial

from torch import Tensor

from . import color, crop
from .view import Plan, View

SCALE, SCALE_OF_DIGITS = (0.2, 1.0), (0.5, 1.0)
STRENGTH = (0.4, 0.4, 0.4, 0.1)
CHANCES = (0.8, 0.2, 0.5)  # of jitter, grey, blur
SIGMA = (0.1, 2.0)  # of the blur, in pixels of an image of 224 pixels


def plan(uniforms: Tensor, size: int, stored: crop.Shape, sizes: Tensor | None, digits: bool) -> Plan:
    box, flip, jitter, order, chances, sigma = uniforms.split([22, 1, 4, 1, 3, 1], 1)
    scale = SCALE_OF_DIGITS if digits else SCALE
    where = crop.random_resized(box, flip[:, 0] < 0.5 * (not digits), size, stored, sizes, scale)
    factors, orders = color.jitter_factors(jitter, STRENGTH).float(), color.orders(order[:, 0])
    sigmas = (SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma[:, 0]) * (size / 224)
    return *where, factors, orders, chances < chances.new_tensor(CHANCES), sigmas


def pixels(images: Tensor, plan: Plan, size: int, digits: bool) -> Tensor:
    factors, orders, chosen, sigmas = plan[4:]
    x = crop.sample(images, plan)
    jitter, grey, blur = chosen.T
    adjustments = color.ADJUST_GREY if digits else color.ADJUST
    color.on_rows(x, jitter, partial(color.color_jitter, adjustments=adjustments), factors, orders)
    if not digits:
        color.on_rows(x, grey, color.to_grey)
    color.on_rows(x, blur, partial(color.gaussian_blur, largest=SIGMA[1] * size / 224), sigmas)
    return x.transpose(2, 3)


def alike(plan: Plan) -> Tensor:
    return color.order_numbers(plan[5])


VIEW = View(32, partial(plan, digits=False), partial(pixels, digits=False), alike)
"""RandomResizedCrop(size, scale (0.2, 1)), ColorJitter(0.4, 0.4, 0.4, 0.1) of 80 %, grey of 20 %, Gaussian
blur with a sigma in (0.1, 2) of 50 %, RandomHorizontalFlip.

Differs from MoCo: the blur is that of 224 pixels, scaled with the size; it is Gaussian, where Pillow
approximates it by boxes; crops are of the stored image, as in ``domainbed``.
"""

OF_DIGITS = View(32, partial(plan, digits=True), partial(pixels, digits=True), alike)
"""The same without flips, saturation, hue and grey, for 1, 2 or 3 channels; crops hold half or more."""
