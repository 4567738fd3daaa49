"""Work on a batch in chunks that stay in a core's cache, by one thread.

On images of this size the threads of one operation wait for each other longer than they compute; worker
processes, each with whole batches, do not. So the results are also the same bits for any number of threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PIXELS = 2**16  # of a chunk


def rows(n: int, pixels: int, device: torch.device) -> list[slice]:
    """Chunks of n images of so many pixels each; one chunk where the device is no CPU."""
    step = max(1, PIXELS // pixels) if device.type == "cpu" else max(1, n)
    return [slice(start, start + step) for start in range(0, n, step)]


@contextmanager
def single_thread() -> Iterator[None]:
    """torch's operations in the calling thread use no other threads."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)
