"""Digits-DG (Zhou et al., ECCV 2020, Learning to Generate Novel Domains, arXiv 2007.03304)."""

from ..dataset import Dataset
from ..folders import FolderDataset


class DigitsDG(FolderDataset):
    """24,000 digits of 32 x 32 pixels from four collections, 600 of each class in each."""

    folder = "digits_dg"
    domains = ("mnist", "mnist_m", "svhn", "syn")
    columns = {"mnist": "MNIST", "mnist_m": "MNIST-M", "svhn": "SVHN", "syn": "SYN"}
    num_classes = 10
    counts = {"mnist": 6000, "mnist_m": 6000, "svhn": 6000, "syn": 6000}
    image_size = 32
    views = Dataset.views
