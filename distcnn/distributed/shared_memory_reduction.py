"""The sum of all shards' gradients where ranks see each other's memory: every gradient is kept
until all are there, then read once.

A shard's gradient stays where backward wrote it, in float32. When all are there, each rank sums its
share of the elements over all shards of all ranks, and writes the sums where all ranks read them.
No sum in float64 is ever whole, and MPI moves nothing but the tally.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.async_allreduce import Sums
from distcnn.distributed.communicator import Communicator
from distcnn.distributed.exact_sum import CHUNK, ExactTotal, FloatVector, check_terms
from distcnn.distributed.partition import shards_of_rank
from distcnn.distributed.reduction import WHOLE, MisuseError, fast_limit
from distcnn.distributed.step_stats import TALLY_SIZE, Tally
from distcnn.spans import LOCAL_SUM, Span

MOST_KEPT = 4
"""Gradients of a rank, 16 bytes for each element.

For more, a sum in float64 and one gradient, 12 bytes, serve any number.
"""

REACH = 16
"""Numbers before each kept gradient.

The first is a magnitude that none of its elements exceeds; 16: so that gradients are aligned.
"""

_LOCAL_SUM = Span(LOCAL_SUM)

AddUp = Callable[[Sequence[FloatVector], float], NDArray[np.floating]]
"""``(terms, reach) -> sum``: of all shards' elements in shard order, whose magnitudes come to
``reach`` at most.
"""


class KeptReduction:
    """A ``Reduction`` of the gradients in ``kept``: of each rank, in rank order, (shards, REACH +
    size or a few more).

    ``totals`` (size,) is where their sums go. All ranks see both; each writes its own gradients,
    and its share of the totals.
    """

    def __init__(
        self,
        kept: list[NDArray[np.float32]],
        totals: NDArray[np.float32],
        rank: int,
        limit: float,
        add_up: AddUp,
    ) -> None:
        gradients = [gradient for of_rank in kept for gradient in of_rank]
        self._own, self._reaches = kept[rank], [gradient[:1] for gradient in gradients]
        self._gradients = [gradient[REACH : REACH + totals.size] for gradient in gradients]
        self._totals, self._limit, self._add_up = totals, limit, add_up
        self._places: list[FloatVector] = [row[REACH : REACH + totals.size] for row in self._own]
        self._placed, self._added, self._started = 0, set[int](), False
        self._share = range(totals.size * rank // len(kept), totals.size * (rank + 1) // len(kept))
        self._counts, self._nothing = np.zeros(TALLY_SIZE), np.zeros(1)
        self.tally = Tally(self._counts, len(gradients))

    def clear(self) -> None:
        """Start a step."""
        self._counts.fill(0)
        self._placed, self._started = 0, False
        self._added.clear()

    def place(self) -> FloatVector:
        """Begin the next shard: where its gradient is to be written."""
        if self._placed == len(self._own):
            raise MisuseError(
                f"place() for shard {self._placed + 1} of a rank that has {len(self._own)}"
            )
        self._placed += 1
        return self._places[self._placed - 1]

    def check(self, grads: FloatVector) -> None:
        """``RangeError`` when one shard's gradient cannot be added."""
        check_terms(grads, self._limit)

    def add(self, grads: FloatVector, bucket: slice = WHOLE) -> None:
        """``grads`` is complete, in the last ``place``. ``RangeError`` when it cannot be added."""
        row, size = self._placed - 1, self._totals.size
        if self._started:
            raise MisuseError("add() after start()")
        if row < 0 or row in self._added:
            raise MisuseError(
                f"add() of shard {len(self._added) + 1} after {self._placed} calls of place(): each"
                " shard needs its own"
            )
        if grads is not self._places[row] and not _is_same_memory(grads, self._places[row]):
            raise MisuseError(
                "add() of an array that is not the last place(): write the gradient there and pass"
                " that array"
            )
        if bucket.indices(size) != (0, size, 1):
            raise MisuseError(
                f"add() of the bucket {bucket}: gradients that are kept are added whole"
            )
        self._own[row, 0] = np.nextafter(
            np.float32(check_terms(grads, self._limit)), np.float32(np.inf)
        )
        self._added.add(row)

    def start(self, bucket: slice, sums: Sums) -> None:
        """All of this rank's gradients are complete: sum them over all ranks."""
        if self._started:
            raise MisuseError("start() for the second time in a step")
        for row in range(len(self._own)):
            if row not in self._added:
                self._own[row].fill(0)  # a shard that failed, or was left out
        self._started = True
        sums.start(
            self._counts
        )  # no rank sums before all ranks have come here: all gradients are complete
        with _LOCAL_SUM:
            self.sum_share()
        sums.start(self._nothing)  # and now all shares are

    def sum_share(self) -> None:
        """Write this rank's share of the totals."""
        reach = sum(float(each[0]) for each in self._reaches)
        for start in self._share[::CHUNK]:
            few = slice(start, min(start + CHUNK, self._share.stop))
            np.copyto(
                self._totals[few],
                self._add_up([gradient[few] for gradient in self._gradients], reach),
                casting="same_kind",
            )

    def finish(self, sums: Sums) -> NDArray[np.floating]:
        """The gradient's sum, in float32 (the tally holds the rest)."""
        if not self._started:
            raise MisuseError("finish() before start()")
        sums.finish()
        return self._totals

    def rounded(self, out: FloatVector) -> FloatVector:
        """The same: all ranks' to read, until the next ``start``."""
        return self._totals


def _is_same_memory(one: FloatVector, other: FloatVector) -> bool:
    return (one.shape, one.strides, one.ctypes.data) == (
        other.shape,
        other.strides,
        other.ctypes.data,
    )


def keep_gradients(
    name: str, size: int, num_shards: int, gradient_limit: float, communicator: Communicator
) -> KeptReduction | None:
    """The reduction called ``name``, exact or fast; None where ranks would have to keep too many,
    or do not see each other's memory.

    Collective.
    """
    rank, world_size = communicator.rank, communicator.world_size
    own = [len(shards_of_rank(num_shards, world_size, each)) for each in range(world_size)]
    if max(own) > MOST_KEPT:
        return None
    row = REACH + -(-size // REACH) * REACH
    memory = communicator.shared_floats(own[rank] * row + (size if rank == 0 else 0))
    if memory is None:
        return None
    kept = [
        floats[: shards * row].reshape(shards, row)
        for floats, shards in zip(memory, own, strict=True)
    ]
    totals = memory[0][own[0] * row :][:size]
    if name == "exact":
        return KeptReduction(
            kept, totals, rank, gradient_limit, ExactTotal(num_shards, gradient_limit)
        )
    return KeptReduction(kept, totals, rank, fast_limit(num_shards), FastTotal(own))


class FastTotal:
    """The sum in float32: each rank's, of which ``shards`` tells how many it has, then over the
    ranks.
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self._total, self._of_rank, self._shards = (
            np.empty(CHUNK, np.float32),
            np.empty(CHUNK, np.float32),
            shards,
        )

    def __call__(self, terms: Sequence[FloatVector], reach: float) -> NDArray[np.float32]:
        total, of_rank, following = (
            self._total[: terms[0].size],
            self._of_rank[: terms[0].size],
            iter(terms),
        )
        for rank, shards in enumerate(self._shards):
            into = of_rank if rank else total
            np.copyto(into, next(following))
            for _ in range(shards - 1):
                into += next(following)
            if rank:
                total += into
        return total
