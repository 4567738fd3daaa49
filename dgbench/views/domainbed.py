"""DomainBed's training view."""

from torch import Tensor

from . import color, crop
from .view import Plan, View

SCALE = (0.7, 1.0)
STRENGTH = (0.3, 0.3, 0.3, 0.3)
GREY = 0.1


def plan(uniforms: Tensor, size: int, stored: crop.Shape, sizes: Tensor | None) -> Plan:
    box, flip, jitter, order, grey = uniforms.split([22, 1, 4, 1, 1], 1)
    where = crop.random_resized(box, flip[:, 0] < 0.5, size, stored, sizes, SCALE)
    return (
        *where,
        color.jitter_factors(jitter, STRENGTH).float(),
        color.orders(order[:, 0]),
        grey[:, 0] < GREY,
    )


def pixels(images: Tensor, plan: Plan, size: int) -> Tensor:
    factors, orders, grey = plan[4:]
    x = crop.sample(images, plan)
    color.color_jitter(x, factors, orders)
    return color.on_rows(x, grey, color.to_grey).transpose(2, 3)


def alike(plan: Plan) -> Tensor:
    return color.order_numbers(plan[5])


VIEW = View(29, plan, pixels, alike)
"""RandomResizedCrop(size, scale (0.7, 1)), RandomHorizontalFlip, ColorJitter(0.3, 0.3, 0.3, 0.3),
RandomGrayscale(0.1), with the distributions of torchvision.

Differs from DomainBed: the crop is drawn on the original image but taken from the stored one, which is
already scaled to a square, so that crops of large images are a little softer; nothing is rounded to grey
levels between the steps.
"""
