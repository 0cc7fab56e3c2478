"""The sum of all shards' gradients over all ranks: exact, or fast; at once, or bucket by bucket."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.async_allreduce import ForegroundSums, Sums
from distcnn.distributed.communicator import Communicator
from distcnn.distributed.exact_sum import ExactSum, FloatVector, RangeError, check_terms
from distcnn.distributed.step_stats import TALLY_SIZE, TALLY_SPACE, Tally

WHOLE = slice(0, None)


class MisuseError(RuntimeError):
    """A reduction was not called in the order that its contract prescribes: a bug in the caller,
    not in the user's input.
    """


class Reduction(Protocol):
    """A step's gradients, of all shards of all ranks, and their sum: exact, or fast.

    The contract: ``clear()``; for each shard of this rank ``place()``, then ``add()`` once for each
    bucket of its gradient, which lies where ``place()`` said; ``start()`` for each bucket;
    ``finish()``. A shard that is left out counts as zero. Whatever breaks this raises
    ``MisuseError``, whichever reduction it is.
    """

    tally: Tally
    """What travels with them: complete when the sum is finished."""

    def clear(self) -> None:
        """Start a step."""

    def place(self) -> FloatVector | None:
        """Begin the next shard: where its gradient must be written; None where it may be
        anywhere.
        """

    def check(self, grads: FloatVector) -> None:
        """``RangeError`` when one shard's gradient cannot be added."""

    def add(self, grads: FloatVector, bucket: slice = WHOLE) -> None:
        """Add ``bucket`` of one shard's gradient ``grads``, the whole vector.

        The buckets of a step have no element in common. ``RangeError`` (with the index in the whole
        vector, and nothing changed) when it cannot be added.
        """

    def start(self, bucket: slice, sums: Sums) -> None:
        """Hand ``bucket`` over to be summed over all ranks; nothing may be added to it any more,
        and nothing to the tally with the last.
        """

    def finish(self, sums: Sums) -> NDArray[np.floating]:
        """Wait for all buckets; the gradient's sum (the tally holds the rest)."""

    def rounded(self, out: FloatVector) -> FloatVector:
        """After ``finish``, the sum in the dtype of ``out``: there or elsewhere."""


class SummedReduction:
    """A ``Reduction`` that adds up as gradients come, into ``[tally, gradient]``.

    The tally travels with the bucket that begins at 0: the last.
    """

    tally: Tally

    def __init__(self, size: int, num_shards: int, dtype: type[np.floating]) -> None:
        self._num_shards = num_shards
        self._sums = np.zeros(TALLY_SPACE + size, dtype)
        self._total = self._sums[TALLY_SPACE:]
        self._placed = 0
        self._added: dict[int, int] = {}  # how many shards each bucket holds, by its first element
        self._started: dict[
            int, int
        ] = {}  # the end of each bucket that was handed over, by its first element

    def clear(self) -> None:
        """Start a step."""
        self._sums[:TALLY_SPACE] = 0
        self._placed = 0
        self._added.clear()  # the first shard's gradient takes the place of what is there
        self._started.clear()

    def place(self) -> None:
        """Anywhere."""
        if self._placed == self._num_shards:
            raise MisuseError(f"place() for shard {self._placed + 1} of {self._num_shards}")
        self._placed += 1

    def add(self, grads: FloatVector, bucket: slice = WHOLE) -> None:
        first = bucket.start or 0
        added = self._added.get(first, 0)
        if first in self._started:
            raise MisuseError(f"add() to the bucket at element {first} after its start()")
        if added == self._placed:
            raise MisuseError(
                f"add() of shard {added + 1} after {self._placed} calls of place(): each shard"
                " needs its own"
            )
        if grads.shape != self._total.shape:
            raise MisuseError(
                f"add() of an array of shape {grads.shape}: a gradient has the shape"
                f" {self._total.shape}"
            )
        try:
            self._add(grads[bucket], slice(first, bucket.stop), fresh=not added)
        except RangeError as error:
            raise RangeError(error.index + first, error.value, error.limit) from None
        self._added[first] = added + 1

    def start(self, bucket: slice, sums: Sums) -> None:
        first, stop, _ = bucket.indices(self._total.size)
        if any(
            first < other_stop and other_first < stop
            for other_first, other_stop in self._started.items()
        ):
            raise MisuseError(
                f"start() of elements {first} to {stop}, some of which were started before"
            )
        if not self._added.get(first):
            self._total[bucket].fill(0)
        self._started[first] = stop
        sums.start(
            self._sums[
                first + TALLY_SPACE if first else 0 : TALLY_SPACE + self._total[: bucket.stop].size
            ]
        )

    def finish(self, sums: Sums) -> NDArray[np.floating]:
        started = sum(stop - first for first, stop in self._started.items())
        if started != self._total.size:
            raise MisuseError(f"finish() after start() of {started} of {self._total.size} elements")
        sums.finish()
        return self._total

    def rounded(self, out: FloatVector) -> FloatVector:
        np.copyto(out, self._total, casting="same_kind")
        return out

    def allreduce(self, communicator: Communicator) -> NDArray[np.floating]:
        """Sum over all ranks at once; the gradient's sum (the tally holds the rest)."""
        sums = ForegroundSums(communicator.allreduce_sum)
        self.start(WHOLE, sums)
        return self.finish(sums)

    def _add(self, part: FloatVector, bucket: slice, fresh: bool) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _add(part, bucket, fresh)")


class ExactReduction(SummedReduction):
    """Sums in float64 by the exact sum, gradient and tally: the same bits on any number of
    ranks.
    """

    def __init__(self, size: int, num_shards: int, gradient_limit: float) -> None:
        super().__init__(size, num_shards, np.float64)
        self._exact = ExactSum(self._total, num_shards, gradient_limit)
        self.tally = Tally(self._sums[:TALLY_SIZE], num_shards)

    def check(self, grads: FloatVector) -> None:
        check_terms(grads, self._exact.limit)

    def _add(self, part: FloatVector, bucket: slice, fresh: bool) -> None:
        self._exact.add(part, bucket.start, fresh)


class FastReduction(SummedReduction):
    """Sums in float32, in whatever order MPI takes: half the bytes, other bits on other numbers of
    ranks.
    """

    def __init__(self, size: int, num_shards: int, gradient_limit: float) -> None:
        super().__init__(size, num_shards, np.float32)
        self._limit = fast_limit(num_shards)
        self._counts = np.zeros(TALLY_SIZE)
        self.tally = Tally(self._counts, num_shards)

    def clear(self) -> None:
        super().clear()
        self._counts.fill(0)

    def check(self, grads: FloatVector) -> None:
        """``RangeError`` for NaN and Inf."""
        check_terms(grads, self._limit)

    def start(self, bucket: slice, sums: Sums) -> None:
        """The counts travel along: they are below 2**24, so exact in float32."""
        if not bucket.start:
            self._sums[:TALLY_SIZE] = self._counts
        super().start(bucket, sums)

    def finish(self, sums: Sums) -> NDArray[np.floating]:
        total = super().finish(sums)
        self._counts[:] = self._sums[:TALLY_SIZE]
        return total

    def _add(self, part: FloatVector, bucket: slice, fresh: bool) -> None:
        self.check(part)
        total = self._total[bucket]
        if fresh:
            np.copyto(total, part)
        else:
            total += part


def fast_limit(num_shards: int) -> float:
    """Of such terms the sum is finite in float32."""
    return float(np.finfo(np.float32).max) / num_shards


REDUCTIONS: dict[str, type[ExactReduction] | type[FastReduction]] = {
    "exact": ExactReduction,
    "fast": FastReduction,
}
