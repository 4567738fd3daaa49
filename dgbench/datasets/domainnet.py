"""DomainNet (Peng et al., ICCV 2019, Moment Matching, arXiv 1812.01754)."""

from ..folders import FolderDataset
from ..hparams import LogUniform


class DomainNet(FolderDataset):
    """586,575 images of 345 classes in six styles: the cleaned version, without duplicates."""

    folder = "domain_net"
    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    columns = {
        "clipart": "clip",
        "infograph": "info",
        "painting": "paint",
        "quickdraw": "quick",
        "real": "real",
        "sketch": "sketch",
    }
    num_classes = 345
    counts = {
        "clipart": 48129,
        "infograph": 51605,
        "painting": 72266,
        "quickdraw": 172500,
        "real": 172947,
        "sketch": 69128,
    }
    checkpoint_freq = 1000
    hparams = {"batch_size": (32, LogUniform(3, 5, base=2, integer=True))}
