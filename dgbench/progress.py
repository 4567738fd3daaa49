"""Progress bars for what may take long: none for the first seconds, few lines in a log file."""

import sys
from typing import Any

from tqdm import tqdm


def bar(title: str, total: int | None = None, unit: str = "B", **options: Any) -> tqdm:
    """A bar to use in a ``with`` statement; unit "B" counts bytes."""
    often = 0.1 if sys.stderr.isatty() else 10  # seconds between updates, each of which is a line in a file
    return tqdm(
        total=total, desc=title, unit=unit, unit_scale=unit == "B", delay=2, mininterval=often, **options
    )
