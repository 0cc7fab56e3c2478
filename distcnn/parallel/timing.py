"""How long an allreduce takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from distcnn.parallel.communicator import Communicator
from distcnn.parallel.sums import Sums

FLOAT64_BYTES = 8
FEWEST, MOST = 3, 51
"""Repeats of one size."""
FEWEST_IN_A_ROW, TIMES = 2, 5
"""Sums right after each other, and how often such a row is timed."""


class Timed(NamedTuple):
    """``seconds``: the median of an allreduce of ``nbytes``, of the rank where it took longest."""

    nbytes: int
    seconds: float


def time_allreduce(communicator: Communicator, sizes: Sequence[int], most_seconds: float) -> list[Timed]:
    """Time the communicator's own sum of float64 over all ranks, for each of ``sizes`` (bytes, in rising order).

    All of it takes about ``most_seconds``: repeats are as many as fit, and sizes of which not even a few fit are left out. Collective.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))
        _one(communicator, values)  # the first of a size finds no buffers
        first = _one(communicator, values)
        share = (end - time.perf_counter()) / (len(sizes) - number)
        # Clocks and first times differ between ranks: all take the number of repeats of the rank that could do fewest.
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


def time_sums(communicator: Communicator, sums: Sums, sizes: Sequence[int], most_seconds: float) -> list[Timed]:
    """Time ``sums`` of float64 over all ranks, one right after the other, for each of ``sizes`` (bytes, in rising order). Collective.

    As in training nobody meets between them: after a barrier ranks begin up to a latency apart, which a single sum would count as its own.
    Sizes of which not even a few fit into ``most_seconds`` are left out, the first excepted.
    """
    rows: list[Timed] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(max(1, nbytes // FLOAT64_BYTES))
        _row(sums, values, FEWEST_IN_A_ROW)  # to meet, and to find buffers
        first = max(communicator.allgather(_row(sums, values, FEWEST_IN_A_ROW)))
        share = min(communicator.allgather(end - time.perf_counter())) / (len(sizes) - number)
        if share < TIMES * FEWEST_IN_A_ROW * first and rows:
            break
        in_a_row = max(FEWEST_IN_A_ROW, min(MOST, int(share / TIMES / max(first, 1e-9))))
        _row(sums, values, FEWEST_IN_A_ROW)
        seconds = [_row(sums, values, in_a_row) for _ in range(TIMES)]
        rows.append(Timed(values.nbytes, max(communicator.allgather(median(seconds)))))
    return rows


def _row(sums: Sums, values: np.typing.NDArray[np.float64], count: int) -> float:
    """Seconds of a sum of ``count`` in a row."""
    start = time.perf_counter()
    for _ in range(count):
        sums.start(values)
        sums.finish()
    return (time.perf_counter() - start) / count
