"""The network test: how long sums over all ranks take, in both ways in which training sums.

What ``distcnn.scaling.prediction`` calibrates on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from distcnn.distributed.allreduce_timing import time_sums
from distcnn.distributed.async_allreduce import ForegroundSums
from distcnn.distributed.communicator import Communicator

SIZES = (8, 1024, 16_384, 131_072, 524_288, 2_097_152, 4_194_304, 8_388_608)
"""Bytes; the larger ones about double, for they decide."""
WAITING, BESIDE = "waiting", "beside"
"""The main thread waits for a sum, or a thread beside it does, as with overlap."""
ADDED = 131_072
"""Elements of the sums that tell what adding takes: larger than the nearest caches."""
REPEATS = 7


def try_network(
    communicator: Communicator, most_seconds: float, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Rows of (bytes, seconds) by way, what adding a byte takes, and where all of it was.

    Collective.
    """
    ways = {
        WAITING: ForegroundSums(communicator.allreduce_sum),
        BESIDE: communicator.background_sums(),
    }
    rows = {
        way: [list(row) for row in time_sums(communicator, sums, sizes, most_seconds / len(ways))]
        for way, sums in ways.items()
        if sums is not None and communicator.world_size > 1
    }
    return {
        "world_size": communicator.world_size,
        "hosts": communicator.hosts,
        "library": communicator.description,
        "rows": rows,
        "add_seconds_per_byte": max(communicator.allgather(add_seconds_per_byte())),
    }


def add_seconds_per_byte() -> float:
    """Of adding one vector of float64 to another, for each byte of one."""
    total, term = np.zeros(ADDED), np.ones(ADDED)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        total += term
        seconds.append(time.perf_counter() - start)
    return median(seconds) / total.nbytes
