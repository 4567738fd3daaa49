"""SVIRO (Dias Da Cruz et al., WACV 2020, arXiv 2001.03483), as DomainBed uses it."""

from ..folders import FolderDataset


class SVIRO(FolderDataset):
    """Rendered grey images of the seats of ten cars; 7 classes say what is on a seat."""

    folder = "sviro"
    domains = ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe")
    num_classes = 7
