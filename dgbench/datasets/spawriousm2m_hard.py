"""Spawrious, two places for two breeds, hard (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import ManyToMany


class SpawriousM2M_hard(ManyToMany):
    """Dogs of four breeds, two places for two breeds, hard: see ``_spawrious.py``."""

    places = ("dirt", "jungle", "snow", "beach")
    test_places = ("snow", "beach", "dirt", "jungle")
