"""Office-31 (Saenko et al., ECCV 2010, Adapting Visual Category Models to New Domains)."""

from ..folders import FolderDataset


class Office31(FolderDataset):
    """4,110 images of 31 office objects from a shop and from two cameras."""

    folder = "office31"
    domains = ("amazon", "dslr", "webcam")
    columns = {"amazon": "A", "dslr": "D", "webcam": "W"}
    num_classes = 31
    counts = {"amazon": 2817, "dslr": 498, "webcam": 795}
