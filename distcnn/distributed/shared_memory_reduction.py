"""The sum of all shards' gradients where the ranks share memory.

A shard's gradient stays where backward has written it, in float32. When all are complete, each rank
sums its share of the elements over all shards of all ranks, and writes the sums where all ranks
read them. No sum in float64 ever exists as a whole, and MPI moves nothing but the counts.

All ranks meet twice in a step: when their gradients are complete, and when their shares of the sum
are. So nothing is written while another rank reads it: gradients are read between the two meetings
and written after the second; the sum is written between them and read after the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.allreduce import BlockingAllreduce
from distcnn.distributed.communicator import Communicator
from distcnn.distributed.exact_sum import CHUNK, ExactTotal, FloatVector, check_terms
from distcnn.distributed.partition import shards_of_rank, share_of
from distcnn.distributed.reduction import Reducer, StepTotals, fast_limit
from distcnn.spans import ALLREDUCE, LOCAL_SUM, REDUCE, Span

MOST_KEPT = 4
"""Gradients that a rank keeps, 16 bytes for each element.

For more, a sum in float64 and one gradient, 12 bytes, serve any number.
"""

HEADER = 16
"""Elements before each gradient, so that gradients are aligned to cache lines.

The first is an upper bound of the magnitude of its elements.
"""

AddUp = Callable[[Sequence[FloatVector], float], NDArray[np.floating]]
"""``(terms, bound) -> sum`` of all shards' elements in shard order; the sum of their magnitudes is
at most ``bound``.
"""


class SharedMemoryReducer(Reducer):
    """A ``Reducer`` over memory that all ranks read.

    Args:
        rows: of each rank, in rank order, (shards, HEADER + size or a few more) float32. A rank
            writes only its own.
        gradient: (size,) float32: where the sums go. Each rank writes its share of the elements.
        rank: this rank.
        limit: the largest magnitude of an element that can be added.
        add_up: how gradients are summed.
        allreduce: sums the counts over all ranks.
    """

    shares_memory = True

    def __init__(
        self,
        rows: list[NDArray[np.float32]],
        gradient: NDArray[np.float32],
        rank: int,
        limit: float,
        add_up: AddUp,
        allreduce: BlockingAllreduce,
    ) -> None:
        everyone = [row for of_rank in rows for row in of_rank]
        super().__init__(len(rows[rank]), len(everyone))
        size = gradient.size
        self._own, self._bounds = rows[rank], [row[:1] for row in everyone]
        self._gradients = [row[HEADER : HEADER + size] for row in everyone]
        self._slots_of_own: list[FloatVector] = [row[HEADER : HEADER + size] for row in self._own]
        self._gradient, self._limit, self._add_up = gradient, limit, add_up
        self._allreduce = allreduce
        self._complete: set[int] = set()
        self._share = share_of(size, len(rows), rank)
        self._nothing = np.zeros(1)
        self._reducing = Span(REDUCE, bucket=0, nbytes=gradient.nbytes, is_last=True)
        self._summing = Span(ALLREDUCE, bucket=0, nbytes=self.stats.sums.nbytes)
        self._meeting = Span(ALLREDUCE, bucket=0, nbytes=self._nothing.nbytes)
        self._local_sum = Span(LOCAL_SUM)

    def begin(self) -> None:
        super().begin()
        self._complete.clear()

    def check(self, gradients: FloatVector) -> None:
        check_terms(gradients, self._limit)

    def _gradient_of_slot(self, number: int) -> FloatVector:
        return self._slots_of_own[number]

    def _add_slot(self, number: int) -> None:
        bound = np.float32(check_terms(self._slots_of_own[number], self._limit))
        self._own[number, 0] = np.nextafter(bound, np.float32(np.inf))
        self._complete.add(number)

    def _sum(self) -> StepTotals:
        for number in range(len(self._own)):
            if number not in self._complete:
                self._own[number].fill(0)
        with self._reducing:
            self._allreduce.start(self.stats.sums, self._summing)
            with self._local_sum:
                self._sum_share()
            self._allreduce.start(self._nothing, self._meeting)
        return self._totals(self._gradient)

    def _sum_share(self) -> None:
        bound = sum(float(value[0]) for value in self._bounds)
        for start in self._share[::CHUNK]:
            chunk = slice(start, min(start + CHUNK, self._share.stop))
            np.copyto(
                self._gradient[chunk],
                self._add_up([gradient[chunk] for gradient in self._gradients], bound),
                casting="same_kind",
            )


def shared_memory_reducer(
    name: str, size: int, num_shards: int, gradient_limit: float, communicator: Communicator
) -> SharedMemoryReducer | None:
    """A reducer for ``name``, exact or fast; None where the ranks do not share memory, or a rank
    would have to keep more than ``MOST_KEPT`` gradients. Collective.
    """
    rank, world_size = communicator.rank, communicator.world_size
    shards = [len(shards_of_rank(num_shards, world_size, other)) for other in range(world_size)]
    if max(shards) > MOST_KEPT:
        return None
    length = HEADER + -(-size // HEADER) * HEADER
    memory = communicator.shared_floats(shards[rank] * length + (size if rank == 0 else 0))
    if memory is None:
        return None
    rows = [
        floats[: count * length].reshape(count, length)
        for floats, count in zip(memory, shards, strict=True)
    ]
    gradient = memory[0][shards[0] * length :][:size]
    limit, add_up = (
        (gradient_limit, ExactTotal(num_shards, gradient_limit))
        if name == "exact"
        else (fast_limit(num_shards), FastTotal(shards))
    )
    allreduce = BlockingAllreduce(communicator.allreduce_sum)
    return SharedMemoryReducer(rows, gradient, rank, limit, add_up, allreduce)


class FastTotal:
    """The sum in float32: over each rank's shards, ``shards`` in number, then over the ranks."""

    def __init__(self, shards: Sequence[int]) -> None:
        self._shards = shards
        self._total, self._of_rank = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)

    def __call__(self, terms: Sequence[FloatVector], bound: float) -> NDArray[np.float32]:
        size, following = terms[0].size, iter(terms)
        total, of_rank = self._total[:size], self._of_rank[:size]
        for rank, shards in enumerate(self._shards):
            into = of_rank if rank else total
            np.copyto(into, next(following))
            for _ in range(shards - 1):
                into += next(following)
            if rank:
                total += into
        return total
