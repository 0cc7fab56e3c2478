"""Sums over the ranks of one host in memory that all of them see, without MPI moving a byte of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.parallel.shared_memory import share_memory
from distcnn.parallel.sums import AllreduceSum
from distcnn.parallel.tally import TALLY_SPACE

Vector = NDArray[Any]

ELEMENTS_AT_A_TIME = 16384
"""The sums (128 KiB) stay in the nearest caches until they are rounded."""


class SharedSums:
    """Sums of one vector over all ranks of a host, each of which sees everyone's ``vectors`` (size,), in rank order.

    The tally is summed by MPI. Of the other elements each rank sums its share over all vectors, in rank order, and writes them, rounded to
    float32, into ``totals`` (size - TALLY_SPACE,), which all ranks see. MPI's own allreduce moves every element through buffers more often,
    and takes longer (docs/speed.md).
    """

    def __init__(self, vectors: list[Vector], totals: Vector, rank: int, allreduce_sum: AllreduceSum) -> None:
        self.own, self._totals, self._allreduce_sum = vectors[rank], totals, allreduce_sum
        shares = [totals.size * each // len(vectors) for each in (rank, rank + 1)]
        self._share, self._vectors = range(*shares), [each[TALLY_SPACE:] for each in vectors]
        self._sums = np.empty(min(totals.size, ELEMENTS_AT_A_TIME), self.own.dtype)
        self._nothing = np.zeros(1)
        self.allreduce_seconds = 0.0

    def start(self, values: Vector) -> None:
        """Sum ``values``, which must be the whole vector: its tally in place, the rest as ``rounded`` gives it. Done when it returns."""
        if values.shape != self.own.shape:
            raise ValueError(f"a part of {values.size} elements cannot be summed on its own: hand over all {self.own.size}")
        start = time.perf_counter()
        self._allreduce_sum(values[:TALLY_SPACE])  # nobody's returns before all have called it: all vectors are complete
        for first in self._share[::ELEMENTS_AT_A_TIME]:
            few = slice(first, min(first + ELEMENTS_AT_A_TIME, self._share.stop))
            one, another, *others = (each[few] for each in self._vectors)
            sums = np.add(one, another, out=self._sums[: one.size])
            for each in others:
                sums += each
            with np.errstate(over="ignore"):
                np.copyto(self._totals[few], sums, casting="same_kind")
        self._allreduce_sum(self._nothing)  # and now all shares are there
        self.allreduce_seconds += time.perf_counter() - start

    def finish(self) -> None:
        """Nothing is left to wait for."""

    def rounded(self, values: Vector, out: Vector) -> Vector:
        """What all ranks have written."""
        return self._totals


def share_vectors(allgather: Callable[[Any], list[Any]], rank: int, size: int, dtype: DTypeLike) -> tuple[list[Vector], Vector] | None:
    """For ``SharedSums``: zeros (size,) of every rank, in rank order, and float32 zeros (size - TALLY_SPACE,) of root's, for the totals.

    None where they cannot be shared. Collective; the ranks must be on one host.
    """
    vector_bytes, others = size * np.dtype(dtype).itemsize, size - TALLY_SPACE
    totals_bytes = others * np.dtype(np.float32).itemsize
    memories = share_memory(allgather, vector_bytes + (totals_bytes if rank == 0 else 0))
    if memories is None:
        return None
    return [np.frombuffer(each, dtype, size) for each in memories], np.frombuffer(memories[0], np.float32, others, vector_bytes)
