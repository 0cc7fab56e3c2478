"""Random streams, each named by what it is for, never by a rank.

Philox (Salmon et al. 2011) is counter-based: a (key, counter) pair names a stream outright, so the stream of any epoch and shard is
had without drawing those before it.
"""

from __future__ import annotations

import numpy as np

INITIALISE, SHUFFLE, SHUFFLE_WINDOWS, FOLDER_SPLIT, FOLDER_ORDER = 1, 2, 3, 4, 5
"""What a stream is for."""

MAX_SEED = 2**64 - 1


def generator(seed: int, purpose: int, *indices: int) -> np.random.Philox:
    """The stream for ``purpose`` and up to two ``indices``, 2**128 numbers away from any other."""
    counter = [0, 0, *indices, *(0 for _ in range(2 - len(indices)))]
    return np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64))
