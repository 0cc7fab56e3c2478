"""The sum of all shards' gradients over all ranks: exact or fast, at once or bucket by bucket.

A step uses a ``Reducer`` like this, whichever one it is:

    reducer.begin()
    for shard in shards:
        with reducer.slot() as gradients:               # write the shard's whole gradient here
            ...
        reducer.count(loss_sum, correct, examples)
    totals = reducer.all_reduce()

There are two kinds. A ``BucketReducer`` (``ExactReducer`` or ``FastReducer``) adds the gradients of
its rank up, and MPI adds up the sums of the ranks. A ``SharedMemoryReducer``
(``shared_memory_reduction.py``), exact or fast, reads the gradients of all ranks.

With overlap, a ``BucketReducer`` takes the gradients of several shards bucket by bucket, and sums
each bucket over all ranks while the rest is still being computed:

    reducer.begin()
    for bucket in reducer.buckets:
        for shard in shards:
            ...                                         # write the bucket to reducer.gradients
            reducer.add(bucket)
        reducer.start(bucket)                           # before the last: reducer.count(...)
    totals = reducer.finish()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from distcnn.distributed.allreduce import Allreduce
from distcnn.distributed.buckets import Bucket
from distcnn.distributed.exact_sum import ExactSum, FloatVector, RangeError, check_terms
from distcnn.distributed.step_stats import STATS_SIZE, StepStats, Totals
from distcnn.spans import ALLREDUCE, LOCAL_SUM, REDUCE, Span

STATS_SPACE = 8
"""Elements before the gradient in the vector that is summed; 8 keeps the gradient aligned."""

_LOCAL_SUM = Span(LOCAL_SUM)


class MisuseError(RuntimeError):
    """A reducer was not called in the order of its contract: a bug in the caller, not bad input."""


@dataclass(frozen=True, kw_only=True)
class StepTotals(Totals):
    """What a step sums over all examples of all ranks."""

    gradient: FloatVector = field(compare=False, repr=False)
    """(size,) float32, the reducer's own: valid until its next ``begin()``."""


class Reducer(ABC):
    """Sums the gradients and counts of all shards of all ranks; see the top of this file.

    A shard whose ``slot`` is left by an exception counts as zero. Calls in another order raise
    ``MisuseError``.

    Args:
        own_shards: shards of this rank, and so the most slots of a step.
        num_shards: shards of all ranks.
    """

    shares_memory = False
    """Whether the ranks read each other's gradients instead of sending sums."""

    def __init__(self, own_shards: int, num_shards: int) -> None:
        self.stats = StepStats(np.zeros(STATS_SIZE), num_shards)
        self._own_shards = own_shards
        self._slots, self._counted, self._in_slot, self._is_over = 0, 0, False, False

    def begin(self) -> None:
        """Begin a step; what an unfinished one has left is forgotten."""
        self.stats.clear()
        self._slots, self._counted, self._in_slot, self._is_over = 0, 0, False, False

    @contextmanager
    def slot(self) -> Iterator[FloatVector]:
        """The float32 vector (size,) to write the next shard's gradient to, all of it.

        Leaving it adds the gradient to the sum; ``RangeError`` when that is not possible.
        """
        if self._is_over or self._in_slot or self._slots == self._own_shards:
            raise MisuseError(
                f"slot() {self._slots + 1} in a step of {self._own_shards} shards"
                f"{', inside another slot()' * self._in_slot}"
                f"{', after the sum' * self._is_over}: call begin() in each step, then"
                " slot() once for each shard"
            )
        self._in_slot = True
        self._slots += 1
        try:
            yield self._gradient_of_slot(self._slots - 1)
            with _LOCAL_SUM:
                self._add_slot(self._slots - 1)
        finally:
            self._in_slot = False

    def count(self, loss_sum: float, correct: int, examples: int) -> None:
        """Count one shard's examples; ``RangeError`` when its loss cannot be added."""
        if self._is_over or self._counted == self._own_shards:
            raise MisuseError(
                f"count() {self._counted + 1} in a step of {self._own_shards} shards"
                f"{', after the sum' * self._is_over}: call begin() in each step, then"
                " count() once for each shard"
            )
        self._counted += 1
        self.stats.add(loss_sum, correct, examples)

    def all_reduce(self) -> StepTotals:
        """Sum over all ranks. Collective."""
        if self._in_slot or self._is_over:
            raise MisuseError(
                f"all_reduce() {'inside a slot()' if self._in_slot else 'for the second time'}:"
                " call it once, after all slots of a step"
            )
        self._is_over = True
        return self._sum()

    @abstractmethod
    def check(self, gradients: FloatVector) -> None:
        """``RangeError`` when one shard's gradient cannot be added."""

    @abstractmethod
    def _gradient_of_slot(self, number: int) -> FloatVector:
        """Where slot ``number`` of this step, from 0, is to be written."""

    @abstractmethod
    def _add_slot(self, number: int) -> None:
        """Slot ``number`` is written: add it."""

    @abstractmethod
    def _sum(self) -> StepTotals:
        """All slots are added, or left out: sum over all ranks."""

    def _totals(self, gradient: FloatVector) -> StepTotals:
        return StepTotals(**vars(self.stats.totals()), gradient=gradient)


class BucketReducer(Reducer):
    """Adds each gradient to ``[counts, gradient]``, the vector that is then summed over all ranks.

    Args:
        gradients: (size,) float32; every shard's gradient is written here and added at once.
        own_shards: as for ``Reducer``.
        num_shards: as for ``Reducer``.
        gradient_limit: the largest magnitude of an element that is added, a power of two.
        allreduce: sums buckets over all ranks: at once, or on another thread.
        buckets: cover all elements; by default, one bucket.
    """

    dtype: type[np.floating]

    def __init__(
        self,
        gradients: FloatVector,
        own_shards: int,
        num_shards: int,
        gradient_limit: float,
        allreduce: Allreduce,
        buckets: Sequence[Bucket] = (),
    ) -> None:
        super().__init__(own_shards, num_shards)
        self.gradients, self._allreduce = gradients, allreduce
        self.buckets = tuple(buckets) or (Bucket(0, 0, gradients.size, True),)
        self._vector = np.zeros(STATS_SPACE + gradients.size, self.dtype)
        self._total = self._vector[STATS_SPACE:]
        self._added, self._started = [0] * len(self.buckets), 0
        self._spans = [self._spans_of(bucket) for bucket in self.buckets]
        self._limit = self._prepare(num_shards, gradient_limit)

    def begin(self) -> None:
        super().begin()
        self._added, self._started = [0] * len(self.buckets), 0

    def add(self, bucket: Bucket) -> None:
        """Add ``bucket`` of ``gradients``, which one shard has written.

        ``RangeError`` (with the index in the whole vector, and nothing changed) when it cannot be
        added.
        """
        added = self._added[bucket.number]
        if bucket.number < self._started or added == self._own_shards:
            raise MisuseError(
                f"add() of bucket {bucket.number} after its start(), or more than once for each of"
                f" {self._own_shards} shards: add each shard's bucket, then start() it"
            )
        try:
            self._add(self.gradients[bucket.elements], bucket, fresh=not added)
        except RangeError as error:
            raise RangeError(error.index + bucket.start, error.value, error.limit) from None
        self._added[bucket.number] += 1

    def start(self, bucket: Bucket) -> None:
        """Begin to sum ``bucket`` over all ranks: all shards are added to it, or left out.

        Collective, in the order of ``buckets``. With the last one go the counts.
        """
        if bucket.number != self._started:
            raise MisuseError(
                f"start() of bucket {bucket.number} after {self._started} were started: start each"
                " bucket once, in order"
            )
        self._started += 1
        if not self._added[bucket.number]:
            self._total[bucket.elements] = 0
        if bucket.is_last:
            self._vector[:STATS_SIZE] = self.stats.sums
            self._is_over = True
        reducing, summing = self._spans[bucket.number]
        with reducing:
            self._allreduce.start(self._message(bucket), summing)

    def finish(self) -> StepTotals:
        """Wait for all buckets."""
        if self._started != len(self.buckets):
            raise MisuseError(
                f"finish() after start() of {self._started} of {len(self.buckets)} buckets: start"
                " each bucket, then finish once"
            )
        self._started += 1  # beyond the last: finish() and start() raise until begin()
        self._allreduce.finish()
        self.stats.sums[:] = self._vector[:STATS_SIZE]
        with _LOCAL_SUM, np.errstate(over="ignore"):  # the next step's sums reject an overflow
            np.copyto(self.gradients, self._total, casting="same_kind")
        return self._totals(self.gradients)

    def _gradient_of_slot(self, number: int) -> FloatVector:
        return self.gradients

    def _add_slot(self, number: int) -> None:
        for bucket in self.buckets:
            self.add(bucket)

    def _sum(self) -> StepTotals:
        for bucket in self.buckets:
            self.start(bucket)
        return self.finish()

    def check(self, gradients: FloatVector) -> None:
        check_terms(gradients, self._limit)

    def _message(self, bucket: Bucket) -> FloatVector:
        start = 0 if bucket.is_last else STATS_SPACE + bucket.start
        return self._vector[start : STATS_SPACE + bucket.stop]

    def _spans_of(self, bucket: Bucket) -> tuple[Span, Span]:
        nbytes, number = self.gradients[bucket.elements].nbytes, bucket.number
        return (
            Span(REDUCE, bucket=number, nbytes=nbytes, is_last=bucket.is_last),
            Span(ALLREDUCE, bucket=number, nbytes=self._message(bucket).nbytes),
        )

    @abstractmethod
    def _prepare(self, num_shards: int, gradient_limit: float) -> float:
        """Get ready to add to ``_total``; the largest magnitude of an element that is added."""

    @abstractmethod
    def _add(self, part: FloatVector, bucket: Bucket, fresh: bool) -> None:
        """Add ``part`` to the total's ``bucket``; with ``fresh``, replace what is there."""


class ExactReducer(BucketReducer):
    """Sums in float64 by the exact sum: the same bits on any number of ranks."""

    dtype = np.float64

    def _prepare(self, num_shards: int, gradient_limit: float) -> float:
        self._exact = ExactSum(self._total, num_shards, gradient_limit)
        return gradient_limit

    def _add(self, part: FloatVector, bucket: Bucket, fresh: bool) -> None:
        self._exact.add(part, bucket.start, fresh)


class FastReducer(BucketReducer):
    """Sums in float32, in any order: half the bytes, but bits depend on the number of ranks.

    Counts are below 2**24, so exact in float32. Its limit is that of float32.
    """

    dtype = np.float32

    def _prepare(self, num_shards: int, gradient_limit: float) -> float:
        return fast_limit(num_shards)

    def _add(self, part: FloatVector, bucket: Bucket, fresh: bool) -> None:
        self.check(part)
        total = self._total[bucket.elements]
        if fresh:
            np.copyto(total, part)
        else:
            total += part


def fast_limit(num_shards: int) -> float:
    """The largest magnitude of ``num_shards`` float32 terms whose sum is always finite."""
    return float(np.finfo(np.float32).max) / num_shards


REDUCERS: dict[str, type[ExactReducer] | type[FastReducer]] = {
    "exact": ExactReducer,
    "fast": FastReducer,
}
