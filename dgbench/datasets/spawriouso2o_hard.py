"""Spawrious, one place for each breed, hard (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import OneToOne


class SpawriousO2O_hard(OneToOne):
    """Dogs of four breeds, one place for each breed, hard: see ``_spawrious.py``."""

    places = ("jungle", "mountain", "snow", "desert")
    test_places = ("mountain", "snow", "desert", "jungle")
    filler = "beach"
