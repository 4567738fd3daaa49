"""Which images of a domain are trained on: DomainBed's split, to the index."""

import numpy as np

from .hparams import seed_hash


def split(n: int, holdout_fraction: float, trial_seed: int, env_index: int) -> tuple[np.ndarray, np.ndarray]:
    """The "in" and "out" indices of a domain of ``n`` images, each an int64 array in shuffled order.

    The first int(n * holdout_fraction) of the shuffled indices are "out", the rest "in". ``env_index`` counts
    all domains of the data set, targets too, so a domain's split does not depend on which one is the target.
    Source: DomainBed, misc.py, ``split_dataset`` and ``seed_hash``.
    """
    keys = np.arange(n, dtype=np.int64)  # shuffled with the same draws as a list, three times as fast
    np.random.RandomState(seed_hash(trial_seed, env_index)).shuffle(keys)
    n_out = int(n * holdout_fraction)
    return keys[n_out:], keys[:n_out]
