"""The sum of all shards' gradients over all ranks: exact or fast, at once or bucket by bucket.

A step uses a ``Reducer`` like this, whichever one it is:

    reducer.begin()
    for shard in shards:
        with reducer.slot() as gradient:                # write the shard's whole gradient here
            ...
        reducer.count(loss_sum, correct, examples)
    totals = reducer.all_reduce()                       # and the sum in reducer.gradient

A ``BucketReducer`` adds the gradients of its rank up, and MPI adds up the sums of the ranks; a
``SharedMemoryReducer`` (``shared_memory_reduction.py``) reads the gradients of all ranks.

With overlap, a ``BucketReducer`` takes the gradients of several shards bucket by bucket, and sums
each bucket over all ranks while the rest is still being computed:

    reducer.begin()
    for bucket in reducer.buckets:
        for shard in shards:
            ...                                         # write the bucket to reducer.gradient
            reducer.add(bucket)
        reducer.start(bucket)                           # before the last: reducer.count(...)
    totals = reducer.finish()
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Protocol

import numpy as np

from distcnn.distributed.allreduce import Allreduce
from distcnn.distributed.exact_sum import (
    STATS_SIZE,
    ExactSum,
    FloatVector,
    RangeError,
    StepStats,
    Totals,
    check_terms,
)
from distcnn.distributed.partition import Bucket
from distcnn.spans import ALLREDUCE, LOCAL_SUM, REDUCE, Span

STATS_SPACE = 8
"""Elements before the gradient in the vector that is summed; 8 keeps the gradient aligned."""
_LOCAL_SUM = Span(LOCAL_SUM)


class Arithmetic(Protocol):
    """How vectors are added. ``ExactSum`` describes the methods."""

    dtype: type[np.floating]
    """The type of ``total``, which the ranks send to each other."""
    num_terms: int
    limit: float

    def add(self, total: FloatVector, terms: FloatVector, fresh: bool = False) -> None: ...

    def sum_of(self, ranks: Iterable[Iterable[FloatVector]], bound: float) -> FloatVector: ...


class FastSum:
    """Like ``ExactSum``, but in float32: half the bytes, and bits that depend on the number of
    ranks. Counts are below 2**24, so exact.
    """

    dtype: type[np.floating] = np.float32

    def __init__(self, num_terms: int, limit: float) -> None:
        self.num_terms = num_terms
        self.limit = float(np.finfo(np.float32).max) / num_terms  # so that sums are finite

    def add(self, total: FloatVector, terms: FloatVector, fresh: bool = False) -> None:
        check_terms(terms, self.limit)
        if fresh:
            np.copyto(total, terms)
        else:
            total += terms

    def sum_of(self, ranks: Iterable[Iterable[FloatVector]], bound: float) -> FloatVector:
        return reduce(np.add, [reduce(np.add, of_rank) for of_rank in ranks])


SUMS: dict[str, Callable[[int, float], Arithmetic]] = {"exact": ExactSum, "fast": FastSum}
"""The sums that ``--reduction`` names, each made of ``(num_terms, limit)``."""


class Reducer(ABC):
    """Sums the gradients and counts of all shards of all ranks; see the top of this file.

    A shard whose ``slot`` is left by an exception, such as ``RangeError``, counts as zero.
    ``gradient``, (size,) float32, holds the sum until the next ``begin()``.
    """

    _in_slot, _is_over = False, True  # as after a step: the first begins with begin()

    shares_memory = False
    """Whether the ranks read each other's gradients instead of sending sums."""

    def __init__(self, arithmetic: Arithmetic, own_shards: int, gradient: FloatVector) -> None:
        self.stats = StepStats(np.zeros(STATS_SIZE), arithmetic.num_terms)
        self.gradient = gradient
        self._arithmetic, self._own_shards = arithmetic, own_shards

    def begin(self) -> None:
        """Begin a step; what an unfinished one has left is forgotten."""
        self.stats.sums.fill(0)
        self._slots, self._counted, self._in_slot, self._is_over = 0, 0, False, False

    @contextmanager
    def slot(self) -> Iterator[FloatVector]:
        """Where to write all of the next shard's gradient, which is added at the end."""
        assert not self._in_slot, "slot() inside another slot()"
        assert not self._is_over, "slot() after the sum: call begin() in each step"
        assert self._slots < self._own_shards, "call slot() once for each shard"
        number, self._in_slot = self._slots, True
        self._slots += 1
        try:
            yield self._gradient_of_slot(number)
            with _LOCAL_SUM:
                self._add_slot(number)
        finally:
            self._in_slot = False

    def count(self, loss_sum: float, correct: int, examples: int) -> None:
        """Count one shard's examples; ``RangeError`` when its loss cannot be added."""
        assert not self._is_over, "count() after the sum: call begin() in each step"
        assert self._counted < self._own_shards, "call count() once for each shard"
        self._counted += 1
        self.stats.add(loss_sum, correct, examples)

    def all_reduce(self) -> Totals:
        """Sum over all ranks. Collective."""
        assert not self._in_slot, "all_reduce() inside a slot()"
        assert not self._is_over, "all_reduce() for the second time in a step"
        self._is_over = True
        self._sum()
        return self.stats.totals()

    def check(self, gradient: FloatVector) -> None:
        """``RangeError`` when one shard's gradient cannot be added."""
        check_terms(gradient, self._arithmetic.limit)

    @abstractmethod
    def _gradient_of_slot(self, number: int) -> FloatVector:
        """Where slot ``number`` of this step, from 0, is to be written."""

    @abstractmethod
    def _add_slot(self, number: int) -> None:
        """Slot ``number`` is written: add it."""

    @abstractmethod
    def _sum(self) -> None:
        """Sum ``stats`` and ``gradient``, to which slots are added or left out, over all ranks."""


class BucketReducer(Reducer):
    """Adds each gradient to ``[counts, gradient]``, the vector that is then summed over all ranks.

    ``gradient`` is also where every shard's gradient is written and added at once. ``buckets``
    cover all elements; by default, there is one.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        own_shards: int,
        gradient: FloatVector,
        allreduce: Allreduce,
        buckets: Sequence[Bucket] = (),
    ) -> None:
        super().__init__(arithmetic, own_shards, gradient)
        self.buckets = tuple(buckets) or (Bucket(0, 0, gradient.size, True),)
        self._allreduce = allreduce
        self._vector: FloatVector = np.zeros(STATS_SPACE + gradient.size, arithmetic.dtype)
        self._total = self._vector[STATS_SPACE:]

    def begin(self) -> None:
        super().begin()
        self._added, self._started, self._is_finished = [0] * len(self.buckets), 0, False

    def add(self, bucket: Bucket) -> None:
        """Add ``bucket`` of ``gradient``, which one shard has written; all or nothing."""
        added, elements = self._added[bucket.number], bucket.elements
        assert bucket.number >= self._started, "add() of a bucket after its start()"
        assert added < self._own_shards, "call add() of a bucket once for each shard"
        try:
            self._arithmetic.add(self._total[elements], self.gradient[elements], fresh=not added)
        except RangeError as error:
            raise RangeError(error.index + bucket.start, error.value, error.limit) from None
        self._added[bucket.number] += 1

    def start(self, bucket: Bucket) -> None:
        """Begin to sum ``bucket``, the next, over all ranks, and with the last one the counts."""
        number, start = bucket.number, STATS_SPACE + bucket.start
        assert number == self._started, "start() each bucket once, in order"
        self._started += 1
        if not self._added[number]:
            self._total[bucket.elements] = 0
        if bucket.is_last:
            self._vector[:STATS_SIZE] = self.stats.sums
            self._is_over, start = True, 0
        message = self._vector[start : STATS_SPACE + bucket.stop]
        nbytes = self.gradient[bucket.elements].nbytes
        with Span(REDUCE, bucket=number, nbytes=nbytes, is_last=bucket.is_last):
            self._allreduce.start(message, Span(ALLREDUCE, bucket=number, nbytes=message.nbytes))

    def finish(self) -> Totals:
        """Wait for all buckets."""
        assert self._started == len(self.buckets), "start() each bucket, then finish() once"
        assert not self._is_finished, "finish() for the second time in a step"
        self._is_finished = True
        self._allreduce.finish()
        self.stats.sums[:] = self._vector[:STATS_SIZE]
        with _LOCAL_SUM, np.errstate(over="ignore"):  # the next step's sums reject an overflow
            np.copyto(self.gradient, self._total, casting="same_kind")
        return self.stats.totals()

    def _gradient_of_slot(self, number: int) -> FloatVector:
        return self.gradient

    def _add_slot(self, number: int) -> None:
        for bucket in self.buckets:
            self.add(bucket)

    def _sum(self) -> None:
        for bucket in self.buckets:
            self.start(bucket)
        self.finish()
