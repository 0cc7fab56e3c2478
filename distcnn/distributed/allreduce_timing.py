"""How long an allreduce takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, median
from typing import NamedTuple

import numpy as np

from distcnn.distributed.async_allreduce import Sums
from distcnn.distributed.communicator import Communicator

FLOAT64_BYTES = 8
FEWEST, MOST = 3, 51
"""Repeats of one size."""
MOST_SUMS, SMALL_SHARE = 25, 8
"""Where both ways of summing are timed."""


class Timed(NamedTuple):
    """``seconds``: the median of an allreduce of ``nbytes``, of the rank where it took longest."""

    nbytes: int
    seconds: float


def time_allreduce(
    communicator: Communicator, sizes: Sequence[int], most_seconds: float
) -> list[Timed]:
    """Time the communicator's own sum of float64 over all ranks, for each of ``sizes`` (bytes, in
    rising order).

    All of it takes about ``most_seconds``: repeats are as many as fit, and sizes of which not even
    a few fit are left out. Collective.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))
        _one(communicator, values)  # the first of a size finds no buffers
        first = _one(communicator, values)
        share = (end - time.perf_counter()) / (len(sizes) - number)
        # Clocks and first times differ between ranks: all take the number of repeats of the rank
        # that could do fewest.
        repeats = min(communicator.allgather(int(min(MOST, share / max(first, 1e-9)))))
        if repeats < FEWEST and rows:
            break
        seconds = [_one(communicator, values) for _ in range(max(FEWEST, repeats))]
        rows.append(Timed(values.nbytes, max(communicator.allgather(median(seconds)))))
    return rows


def _one(communicator: Communicator, values: np.typing.NDArray[np.float64]) -> float:
    """Seconds of one sum that all ranks begin together."""
    communicator.barrier()
    start = time.perf_counter()
    communicator.allreduce_sum(values)
    return time.perf_counter() - start


def time_sums(
    communicator: Communicator, sums: Sums, sizes: Sequence[int], most_seconds: float
) -> list[Timed]:
    """Time ``sums`` of float64 over all ranks, for each of ``sizes`` (bytes, in rising order).
    Collective.

    The mean over ranks of each sum: they leave the barrier before it up to a latency apart, and who
    comes earlier waits longer by as much. Sizes of which not even a few fit into what is left of
    ``most_seconds`` are left out.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))

        def one(values: np.typing.NDArray[np.float64] = values) -> float:
            communicator.barrier()
            start = time.perf_counter()
            sums.start(values)
            sums.finish()
            return time.perf_counter() - start

        one()  # the first of a size finds no buffers
        first, left = (
            max(communicator.allgather(one())),
            min(communicator.allgather(end - time.perf_counter())),
        )
        if FEWEST * first > left and len(rows) >= FEWEST:
            break
        # The largest sizes take nearly all of the time, and tell most: each gets its share by its
        # bytes, the small ones a little more.
        share = left * max(nbytes / sum(sizes[number:]), 1 / (SMALL_SHARE * len(sizes)))
        repeats = max(FEWEST, min(MOST_SUMS, int(share / first) - 1))
        everyone = communicator.allgather([one() for _ in range(repeats)])
        rows.append(Timed(values.nbytes, median(map(mean, zip(*everyone, strict=True)))))
    return rows
