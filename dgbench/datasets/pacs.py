"""PACS (Li et al., ICCV 2017, Deeper, Broader and Artier Domain Generalization, arXiv 1710.03077)."""

from ..folders import FolderDataset


class PACS(FolderDataset):
    """9,991 images of 7 classes in four styles."""

    folder = "PACS"
    domains = ("art_painting", "cartoon", "photo", "sketch")
    columns = {"art_painting": "A", "cartoon": "C", "photo": "P", "sketch": "S"}
    num_classes = 7
    counts = {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
