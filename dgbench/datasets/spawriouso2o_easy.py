"""Spawrious, one place for each breed, easy (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import OneToOne


class SpawriousO2O_easy(OneToOne):
    """Dogs of four breeds, one place for each breed, easy: see ``_spawrious.py``."""

    places = ("desert", "jungle", "dirt", "snow")
    test_places = ("dirt", "snow", "desert", "jungle")
    filler = "beach"
