"""FMoW (Christie et al., CVPR 2018), as WILDS divides it (Koh et al., ICML 2021, arXiv 2012.07421)."""

from ..folders import FolderDataset


class FMoW(FolderDataset):
    """Satellite images of buildings and land in six regions; 62 uses. A region may lack a use."""

    folder = "fmow"
    domains = ("Asia", "Europe", "Africa", "Americas", "Oceania", "Other")
    num_classes = 62
    every_class = False
    checkpoint_freq = 100
