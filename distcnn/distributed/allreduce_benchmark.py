"""How long sums over all ranks take, for the doctor and for predictions of scaling
(``distcnn.scaling.prediction``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.async_allreduce import ForegroundSums, Sums
from distcnn.distributed.communicator import Communicator

SIZES = (8, 1024, 16_384, 131_072, 524_288, 2_097_152, 4_194_304, 8_388_608)
"""Bytes; the larger ones double, for they matter most."""
WAITING, BESIDE = "waiting", "beside"
"""The main thread waits for a sum, or another thread sums meanwhile, as with overlap."""
FLOAT64_BYTES = 8
FEWEST, MOST = 3, 25
"""Repeats of one size."""
SMALL_SHARE = 8
ADDED = 131_072
"""Elements of the vectors that measure adding: more than the nearest caches hold."""
REPEATS = 7


class Timed(NamedTuple):
    """The median ``seconds`` of a sum of ``nbytes``, in the mean over the ranks."""

    nbytes: int
    seconds: float


def time_sums(
    communicator: Communicator, sums: Sums, sizes: Sequence[int], most_seconds: float
) -> list[Timed]:
    """Time ``sums`` of float64 over all ranks. Collective.

    The mean over ranks counts: they leave the barrier before a sum up to a latency apart, and a
    rank that comes earlier waits longer by as much.

    Args:
        communicator: of all ranks.
        sums: how they are summed.
        sizes: in bytes, ascending.
        most_seconds: for all of it; the largest sizes are left out where they do not fit.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))
        _seconds_of(communicator, sums, values)  # the first of a size allocates buffers
        first = max(communicator.allgather(_seconds_of(communicator, sums, values)))
        left = min(communicator.allgather(end - time.perf_counter()))
        if FEWEST * first > left and len(rows) >= FEWEST:
            break
        # The largest sizes take nearly all of the time, and tell most: each gets a share by its
        # bytes, the small ones a little more.
        share = left * max(nbytes / sum(sizes[number:]), 1 / (SMALL_SHARE * len(sizes)))
        repeats = max(FEWEST, min(MOST, int(share / first) - 1))
        own = [_seconds_of(communicator, sums, values) for _ in range(repeats)]
        everyone = zip(*communicator.allgather(own), strict=True)
        rows.append(Timed(values.nbytes, median(map(mean, everyone))))
    return rows


def _seconds_of(communicator: Communicator, sums: Sums, values: NDArray[np.float64]) -> float:
    """Of one sum, which all ranks begin together."""
    communicator.barrier()
    start = time.perf_counter()
    sums.start(values)
    sums.finish()
    return time.perf_counter() - start


def try_network(
    communicator: Communicator, most_seconds: float, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Rows of (bytes, seconds) for both ways of summing, the time to add a byte, and where all of
    it was measured. Collective.
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
    """Seconds to add one vector of float64 to another, per byte of one."""
    total, term = np.zeros(ADDED), np.ones(ADDED)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        total += term
        seconds.append(time.perf_counter() - start)
    return median(seconds) / total.nbytes
