"""Office-Home (Venkateswara et al., CVPR 2017, Deep Hashing Network, arXiv 1706.07522)."""

from ..folders import FolderDataset


class OfficeHome(FolderDataset):
    """15,588 images of 65 classes in four styles."""

    folder = "office_home"
    domains = ("Art", "Clipart", "Product", "Real World")
    columns = {"Art": "A", "Clipart": "C", "Product": "P", "Real World": "R"}
    num_classes = 65
    counts = {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357}
