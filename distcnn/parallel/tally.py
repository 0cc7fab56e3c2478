"""The counts that go with every sum over ranks: loss, right answers, examples, failures, requests to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.parallel.exact_sum import ExactSum

TALLY_SIZE = 5
TALLY_SPACE = 8
"""The tally lies before the gradient in the vector that is summed; 8: so the gradient stays aligned."""
LOSS_LIMIT = 2.0**30
"""The largest loss of one microbatch that is added; for 8 shards its resolution is 2**-19."""


@dataclass(frozen=True)
class Totals:
    """Sums over examples. ``failures`` is how many shards could not be added, ``stops`` how many ranks were asked to stop."""

    loss_sum: float
    correct: int
    examples: int
    failures: int
    stops: int = 0

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.loss_sum / self.examples


class Tally:
    """Adds up counts in ``sums``, TALLY_SIZE float64 (a view of what is allreduced): the loss by the exact sum, the rest are integers."""

    def __init__(self, sums: NDArray[np.float64], num_terms: int) -> None:
        self._sums = sums
        self._losses = ExactSum(sums[:1], num_terms, LOSS_LIMIT)

    def add(self, loss_sum: float, correct: int, examples: int) -> None:
        """Add one microbatch's. ``RangeError`` (and nothing added) when the loss is NaN, Inf or beyond its limit."""
        self._losses.add(np.array([loss_sum]))
        self._sums[1] += correct
        self._sums[2] += examples

    def fail(self) -> None:
        """Count one failure, which every rank then sees in the sum."""
        self._sums[3] += 1

    def ask_to_stop(self) -> None:
        """Say that this rank was asked to stop, which every rank then sees in the same sum."""
        self._sums[4] += 1

    def totals(self) -> Totals:
        """What was added up so far."""
        loss_sum, *counts = self._sums.tolist()
        return Totals(loss_sum, *map(int, counts))
