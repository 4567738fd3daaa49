"""dgbench: does this method beat plain training when the domain changes?"""

__version__ = "0.1.0"
