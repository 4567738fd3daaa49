"""Spawrious, one place for each breed, medium (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import OneToOne


class SpawriousO2O_medium(OneToOne):
    """Dogs of four breeds, one place for each breed, medium: see ``_spawrious.py``."""

    places = ("mountain", "beach", "dirt", "jungle")
    test_places = ("jungle", "dirt", "beach", "snow")
    filler = "desert"
