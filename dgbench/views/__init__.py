"""Views: batches of uint8 images to float images, augmented at once, without a loop over samples."""

from . import domainbed, evaluation, moco, strong, weak
from .view import IMAGENET_MEAN, IMAGENET_STD, Normalize, View

VIEWS = {
    "none": evaluation.VIEW,
    "domainbed": domainbed.VIEW,
    "weak": weak.VIEW,
    "weak_digits": weak.OF_DIGITS,
    "strong": strong.VIEW,
    "strong_digits": strong.OF_DIGITS,
    "moco": moco.VIEW,
    "moco_digits": moco.OF_DIGITS,
}
"""{name: view}: values of ``Dataset.views``."""

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VIEWS", "Normalize", "View"]
