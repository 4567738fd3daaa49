"""The cost of the harness, as ratios: ``make bench``. One file per group of figures."""
