"""Timing of sums over all ranks, for the doctor and the interconnect test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from distcnn.distributed.allreduce import Allreduce
from distcnn.distributed.communicator import Communicator

FLOAT64_BYTES = 8
FEWEST_REPEATS, MOST_REPEATS = 3, 25
SMALL_SHARE = 8
"""Every size gets at least this fraction of an even share of the time."""


class Timed(NamedTuple):
    """``seconds``: the median of sums of ``nbytes``."""

    nbytes: int
    seconds: float


def time_sums(
    communicator: Communicator, allreduce: Allreduce, sizes: Sequence[int], most_seconds: float
) -> list[Timed]:
    """Time how ``allreduce`` sums float64 over all ranks. Collective.

    The time of a sum is its mean over the ranks: they leave the barrier before it up to a latency
    apart, and a rank that leaves earlier waits correspondingly longer.

    Args:
        communicator: of all ranks.
        allreduce: what is timed.
        sizes: bytes, in ascending order.
        most_seconds: about how long to measure; sizes for which no time is left are omitted.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))

        def one(values: np.typing.NDArray[np.float64] = values) -> float:
            communicator.barrier()
            start = time.perf_counter()
            allreduce.start(values)
            allreduce.finish()
            return time.perf_counter() - start

        one()  # the first of a size allocates buffers
        first = max(communicator.allgather(one()))
        left = min(communicator.allgather(end - time.perf_counter()))
        if FEWEST_REPEATS * first > left and len(rows) >= FEWEST_REPEATS:
            break
        # The largest sizes matter most and take nearly all of the time, so shares go by bytes.
        share = left * max(nbytes / sum(sizes[number:]), 1 / (SMALL_SHARE * len(sizes)))
        repeats = max(FEWEST_REPEATS, min(MOST_REPEATS, int(share / first) - 1))
        everyone = communicator.allgather([one() for _ in range(repeats)])
        rows.append(Timed(values.nbytes, median(map(fmean, zip(*everyone, strict=True)))))
    return rows
