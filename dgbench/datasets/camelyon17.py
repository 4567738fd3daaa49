"""Camelyon17 (Bandi et al., IEEE TMI 2018), as WILDS cuts it (Koh et al., ICML 2021, arXiv 2012.07421)."""

from ..folders import FolderDataset


class Camelyon17(FolderDataset):
    """455,954 patches of lymph nodes from five hospitals; a patch is normal or holds tumor."""

    folder = "camelyon17"
    domains = ("hospital_0", "hospital_1", "hospital_2", "hospital_3", "hospital_4")
    columns = {
        "hospital_0": "H0",
        "hospital_1": "H1",
        "hospital_2": "H2",
        "hospital_3": "H3",
        "hospital_4": "H4",
    }
    num_classes = 2
    counts = {
        "hospital_0": 59436,
        "hospital_1": 34904,
        "hospital_2": 85054,
        "hospital_3": 129838,
        "hospital_4": 146722,
    }
    checkpoint_freq = 100
