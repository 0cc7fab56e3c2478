"""The counts that travel with every sum over ranks: loss, correct answers, examples, failures,
requests to stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.exact_sum import RangeError, grid_anchors, on_grids

LOSS_GRIDS = 3
"""Grids of the losses' exact sum. The last one's spacing is 2**-119 for 8 terms and 2**-68 for a
million, so nothing that float32 holds of a mean loss is lost; a single grid has 2**-19 and 2**-2.
"""
STATS_SIZE = LOSS_GRIDS + 4
LOSS_LIMIT = 2.0**30
"""The largest loss of one microbatch that is added."""


@dataclass(frozen=True)
class Totals:
    """Sums over examples; how many shards could not be added, and ranks were asked to stop."""

    loss_sum: float
    correct: int
    examples: int
    failures: int
    stops: int = 0

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.loss_sum / self.examples


class StepStats:
    """Adds up the counts of at most ``num_terms`` microbatches, over all ranks, in ``sums``.

    ``sums`` is (STATS_SIZE,) float64: losses on the grids of the exact sum, then integers.
    """

    def __init__(self, sums: NDArray[np.float64], num_terms: int) -> None:
        self.sums = sums
        self._losses, self._counts = sums[:LOSS_GRIDS], sums[LOSS_GRIDS:]
        self._anchors = grid_anchors(num_terms, LOSS_LIMIT, LOSS_GRIDS)

    def add(self, loss_sum: float, correct: int, examples: int) -> None:
        """Add one microbatch's; ``RangeError`` (and nothing added) when its loss cannot be."""
        if not abs(loss_sum) <= LOSS_LIMIT:
            raise RangeError(0, loss_sum, LOSS_LIMIT)
        self._losses += list(on_grids(loss_sum, self._anchors))
        self._counts[:2] += correct, examples

    def fail(self) -> None:
        """Count one failure, which every rank then sees in the sum."""
        self._counts[2] += 1

    def ask_to_stop(self) -> None:
        """Count this rank as asked to stop."""
        self._counts[3] += 1

    def totals(self) -> Totals:
        return Totals(math.fsum(self._losses), *map(int, self._counts.tolist()))
