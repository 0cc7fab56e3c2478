"""The sum of all shards' gradients over all ranks: exact, or fast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distcnn.parallel.communicator import Communicator
from distcnn.parallel.exact_sum import ExactSum, FloatVector, check_terms
from distcnn.parallel.tally import TALLY_SIZE, Tally


class ExactReduction:
    """Sums in float64 by the exact sum: one allreduce of gradient and tally, the same bits on any number of ranks."""

    def __init__(self, size: int, num_shards: int, gradient_limit: float) -> None:
        self._sums = np.zeros(size + TALLY_SIZE)
        self._exact = ExactSum(self._sums[:size], num_shards, gradient_limit)
        self.tally = Tally(self._sums[size:], num_shards)

    def clear(self) -> None:
        """Start a step."""
        self._sums.fill(0)

    def add(self, grads: FloatVector) -> None:
        """Add one shard's gradient. ``RangeError`` when it cannot be added exactly."""
        self._exact.add(grads)

    def allreduce(self, communicator: Communicator) -> NDArray[np.floating]:
        """Sum over all ranks; the gradient's sum (the tally holds the rest)."""
        communicator.allreduce_sum(self._sums)
        return self._exact.total


class FastReduction:
    """Sums in float32, in whatever order MPI takes: half the bytes, other bits on other numbers of ranks."""

    def __init__(self, size: int, num_shards: int, gradient_limit: float) -> None:
        self._size, self._limit = size, float(np.finfo(np.float32).max) / num_shards
        self._sums = np.zeros(size + TALLY_SIZE, np.float32)
        self._counts = np.zeros(TALLY_SIZE)
        self.tally = Tally(self._counts, num_shards)

    def clear(self) -> None:
        """Start a step."""
        self._sums.fill(0)
        self._counts.fill(0)

    def add(self, grads: FloatVector) -> None:
        """Add one shard's gradient. ``RangeError`` for NaN and Inf."""
        check_terms(grads, self._limit)
        self._sums[: self._size] += grads

    def allreduce(self, communicator: Communicator) -> NDArray[np.floating]:
        """Sum over all ranks; the gradient's sum. The counts travel along: they are below 2**24, so exact in float32."""
        self._sums[self._size :] = self._counts
        communicator.allreduce_sum(self._sums)
        self._counts[:] = self._sums[self._size :]
        return self._sums[: self._size]


Reduction = ExactReduction | FastReduction

REDUCTIONS: dict[str, type[ExactReduction] | type[FastReduction]] = {"exact": ExactReduction, "fast": FastReduction}
