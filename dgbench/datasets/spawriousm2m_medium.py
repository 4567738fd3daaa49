"""Spawrious, two places for two breeds, medium (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import ManyToMany


class SpawriousM2M_medium(ManyToMany):
    """Dogs of four breeds, two places for two breeds, medium: see ``_spawrious.py``."""

    places = ("beach", "snow", "mountain", "desert")
    test_places = ("desert", "mountain", "beach", "snow")
