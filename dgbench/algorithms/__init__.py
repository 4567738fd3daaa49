"""One file per method, nothing else. ``ls`` is the table of methods; ``registry.py`` finds them."""
