"""Spawrious, two places for two breeds, easy (Lynch et al. 2023, arXiv 2303.05470)."""

from ._spawrious import ManyToMany


class SpawriousM2M_easy(ManyToMany):
    """Dogs of four breeds, two places for two breeds, easy: see ``_spawrious.py``."""

    places = ("desert", "mountain", "dirt", "jungle")
    test_places = ("dirt", "jungle", "mountain", "desert")
