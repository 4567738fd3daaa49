"""VLCS (Fang et al., ICCV 2013, Unbiased Metric Learning)."""

from ..folders import FolderDataset


class VLCS(FolderDataset):
    """10,729 photographs of 5 classes from four collections."""

    folder = "VLCS"
    domains = ("Caltech101", "LabelMe", "SUN09", "VOC2007")
    columns = {"Caltech101": "C", "LabelMe": "L", "SUN09": "S", "VOC2007": "V"}
    num_classes = 5
    counts = {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376}
