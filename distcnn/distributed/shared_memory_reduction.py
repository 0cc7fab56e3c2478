"""The sum of all shards' gradients where the ranks share memory.

A shard's gradient stays where backward has written it, in float32. When all are complete, each rank
sums its share of the elements over all shards of all ranks, and writes the sums where all ranks
read them. No sum in float64 ever exists as a whole, and MPI moves nothing but the counts.

All ranks meet twice in a step: when their gradients are complete, and when their shares of the sum
are. So nothing is written while another rank reads it: gradients are read between the two meetings
and written after the second; the sum is written between them and read after the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.communicator import Communicator
from distcnn.distributed.exact_sum import CHUNK, ExactSum, FloatVector, check_terms
from distcnn.distributed.partition import shards_of_rank, share_of
from distcnn.distributed.reduction import FastSum, Reducer
from distcnn.spans import ALLREDUCE, LOCAL_SUM, REDUCE, Span

MOST_KEPT = 4
"""Gradients that a rank keeps, 16 bytes for each element.

For more, a sum in float64 and one gradient, 12 bytes, serve any number.
"""

HEADER = 16
"""Elements before each gradient, so that gradients are aligned to cache lines.

The first is an upper bound of the magnitude of its elements, or negative if they are not complete.
"""

_MEETING = Span(ALLREDUCE, bucket=0, nbytes=8)
_LOCAL_SUM = Span(LOCAL_SUM)


class SharedMemoryReducer(Reducer):
    """A ``Reducer`` over memory that all ranks read.

    ``rows`` of each rank, in rank order, are (its shards, HEADER + size or a few more) float32; a
    rank writes only its own. It also writes its share of the elements of ``gradient``.
    """

    shares_memory = True

    def __init__(
        self,
        arithmetic: ExactSum | FastSum,
        rows: list[NDArray[np.float32]],
        gradient: NDArray[np.float32],
        communicator: Communicator,
    ) -> None:
        self._own, size = rows[communicator.rank], gradient.size
        super().__init__(arithmetic, len(self._own), gradient)
        self._rows = rows
        self._share = share_of(size, len(rows), communicator.rank)
        self._allreduce_sum, self._nothing = communicator.allreduce_sum, np.zeros(1)
        self._reducing = Span(REDUCE, bucket=0, nbytes=gradient.nbytes, is_last=True)
        self._summing = Span(ALLREDUCE, bucket=0, nbytes=self.stats.sums.nbytes)

    def begin(self) -> None:
        super().begin()
        self._own[:, 0] = -1

    def _gradient_of_slot(self, number: int) -> FloatVector:
        return self._own[number, HEADER : HEADER + self.gradient.size]

    def _add_slot(self, number: int) -> None:
        bound = check_terms(self._gradient_of_slot(number), self._arithmetic.limit)
        self._own[number, 0] = np.nextafter(np.float32(bound), np.float32(np.inf))

    def _sum(self) -> None:
        self._own[self._own[:, 0] < 0] = 0
        with self._reducing:
            with self._summing:
                self._allreduce_sum(self.stats.sums)
            with _LOCAL_SUM:
                self._sum_share()
            with _MEETING:
                self._allreduce_sum(self._nothing)

    def _sum_share(self) -> None:
        bound = sum(float(row[0]) for of_rank in self._rows for row in of_rank)
        for start in self._share[::CHUNK]:
            stop = min(start + CHUNK, self._share.stop)
            ranks = [of_rank[:, HEADER + start : HEADER + stop] for of_rank in self._rows]
            total = self._arithmetic.sum_of(ranks, bound)
            np.copyto(self.gradient[start:stop], total, casting="same_kind")


def shared_memory_reducer(
    arithmetic: ExactSum | FastSum, size: int, communicator: Communicator
) -> SharedMemoryReducer | None:
    """A reducer of gradients (size,); None where the ranks do not share memory, or a rank would
    have to keep more than ``MOST_KEPT`` gradients. Collective.
    """
    rank, world_size = communicator.rank, communicator.world_size
    shards = [
        len(shards_of_rank(arithmetic.num_terms, world_size, other)) for other in range(world_size)
    ]
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
    return SharedMemoryReducer(arithmetic, rows, gradient, communicator)
