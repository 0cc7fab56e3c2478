"""How long sums over all ranks take, by their size."""

import time
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.allreduce import Allreduce
from distcnn.distributed.communicator import Communicator

FEWEST_REPEATS, MOST_REPEATS = 3, 25


def time_sums(
    communicator: Communicator, allreduce: Allreduce, sizes: Sequence[int], most_seconds: float
) -> list[tuple[int, float]]:
    """``(nbytes, seconds)`` of sums of float64 over all ranks, of ascending ``sizes`` in bytes;
    those for which no time is left are omitted. Collective.

    Each time is a mean over the ranks: one that leaves the barrier earlier waits longer.
    """

    def one(values: NDArray[np.float64]) -> float:
        communicator.barrier()
        start = time.perf_counter()
        allreduce.start(values)
        allreduce.finish()
        return time.perf_counter() - start

    rows: list[tuple[int, float]] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(nbytes // 8)
        one(values)  # the first of a size allocates buffers
        first = max(communicator.allgather(one(values)))
        left = min(communicator.allgather(end - time.perf_counter()))
        if FEWEST_REPEATS * first > left and len(rows) >= FEWEST_REPEATS:
            break
        share = left / (len(sizes) - number)  # small sizes leave nearly all of theirs
        repeats = max(FEWEST_REPEATS, min(MOST_REPEATS, int(share / first) - 1))
        everyone = communicator.allgather([one(values) for _ in range(repeats)])
        rows.append((nbytes, median(map(fmean, zip(*everyone, strict=True)))))
    return rows
