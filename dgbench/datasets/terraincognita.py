"""TerraIncognita (Beery et al., ECCV 2018, Recognition in Terra Incognita, arXiv 1807.04975)."""

from ..folders import FolderDataset


class TerraIncognita(FolderDataset):
    """24,788 camera-trap photographs of 10 classes at four locations, as DomainBed selects them."""

    folder = "terra_incognita"
    domains = ("location_100", "location_38", "location_43", "location_46")
    columns = {"location_100": "L100", "location_38": "L38", "location_43": "L43", "location_46": "L46"}
    num_classes = 10
    counts = {"location_100": 4879, "location_38": 9767, "location_43": 4020, "location_46": 6122}
