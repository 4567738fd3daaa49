"""One file per data set. ``ls`` is the list; ``registry.py`` finds them."""
