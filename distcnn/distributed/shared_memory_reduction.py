"""The sum of all shards' gradients where the ranks share memory.

A shard's gradient stays where backward has written it, in float32. When all are complete, each rank
sums its share of the elements over all shards of all ranks, and writes the sums where all ranks
read them. No sum in float64 ever exists as a whole, and MPI moves nothing but the counts.

All ranks meet twice in a step: when their gradients are complete, and when their shares of the sum
are. Between the meetings, gradients are read and the sum is written; after the second, the sum is
read and gradients are written.
"""

import mmap
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.communicator import Communicator
from distcnn.distributed.exact_sum import CHUNK, FloatVector, check_terms
from distcnn.distributed.partition import shards_of_rank, share_of
from distcnn.distributed.reduction import Arithmetic, Reducer
from distcnn.spans import ALLREDUCE, LOCAL_SUM, REDUCE, Span

MOST_KEPT = 4
"""A rank of more shards uses a ``BucketReducer``, whose memory does not depend on the number of
shards: 12 bytes per element, for a sum in float64 and one gradient. Four gradients take 16.
"""
HEADER = 16
"""The elements before each gradient, which begins on a cache line. The first of them is an
upper bound of the magnitude of the gradient's elements, or negative if those are not complete.
"""
TOKEN_BYTES = 16
"""Shared memory begins with a random token, which the other ranks check: a process of another
container may have the same id.
"""
_LOCAL_SUM = Span(LOCAL_SUM)


class SharedMemoryReducer(Reducer):
    """A ``Reducer`` over memory that all ranks read. Each writes its share of ``gradient``, and its
    own of the ``rows`` of all ranks: (its shards, HEADER + size or a few more) float32.
    """

    shares_memory = True

    def __init__(
        self,
        arithmetic: Arithmetic,
        rows: list[NDArray[np.float32]],
        gradient: NDArray[np.float32],
        communicator: Communicator,
    ) -> None:
        super().__init__(arithmetic, len(rows[communicator.rank]), gradient)
        self._rows, self._own = rows, rows[communicator.rank]
        self._share = share_of(gradient.size, len(rows), communicator.rank)
        self._allreduce_sum, self._nothing = communicator.allreduce_sum, np.zeros(1)

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
        with Span(REDUCE, bucket=0, nbytes=self.gradient.nbytes, is_last=True):
            self._meet(self.stats.sums)
            with _LOCAL_SUM:
                self._sum_share()
            self._meet(self._nothing)

    def _meet(self, values: NDArray[np.float64]) -> None:
        with Span(ALLREDUCE, bucket=0, nbytes=values.nbytes):
            self._allreduce_sum(values)

    def _sum_share(self) -> None:
        bound = sum(float(row[0]) for of_rank in self._rows for row in of_rank)
        for start in self._share[::CHUNK]:
            stop = min(start + CHUNK, self._share.stop)
            ranks = [of_rank[:, HEADER + start : HEADER + stop] for of_rank in self._rows]
            total = self._arithmetic.sum_of(ranks, bound)
            np.copyto(self.gradient[start:stop], total, casting="same_kind")


def shared_memory_reducer(
    arithmetic: Arithmetic, size: int, communicator: Communicator
) -> SharedMemoryReducer | None:
    """A reducer of gradients (size,); None where the ranks do not share memory, or a rank would
    have to keep more than ``MOST_KEPT`` gradients. Collective.
    """
    rank, ranks = communicator.rank, communicator.world_size
    shards = [len(shards_of_rank(arithmetic.num_terms, ranks, other)) for other in range(ranks)]
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


def share_memory(allgather: Callable[[Any], list[Any]], nbytes: int) -> list[mmap.mmap] | None:
    """Zeros of every rank, in rank order: at least the bytes that rank requests. None when some
    rank cannot see another's. Collective. The memory is freed with the last rank.
    """
    own, token = _reserve(max(nbytes, TOKEN_BYTES)), secrets.token_bytes(TOKEN_BYTES)
    if own is not None:
        os.pwrite(own, token, 0)
    offers = allgather((os.getpid(), own, token))
    memories = [_map(*offer) for offer in offers]
    seen_by_all = all(allgather(None not in memories))
    if own is not None:
        os.pwrite(own, bytes(TOKEN_BYTES), 0)
        os.close(own)
    return [each for each in memories if each is not None] if seen_by_all else None


def _reserve(nbytes: int) -> int | None:
    """A file descriptor of ``nbytes`` of new memory, all reserved; None if impossible."""
    with suppress(OSError, AttributeError):  # Linux alone has it
        memory = os.memfd_create("distcnn")
        try:
            os.posix_fallocate(memory, 0, nbytes)
        except OSError:
            os.close(memory)
            raise
        return memory
    return None


def _map(process: int, descriptor: int | None, token: bytes) -> mmap.mmap | None:
    """Map the memory of ``process`` into this one; None where it cannot be seen."""
    with suppress(OSError, ValueError):
        memory = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK)
        try:
            mapped = mmap.mmap(memory, 0)
        finally:
            os.close(memory)
        return mapped if mapped[:TOKEN_BYTES] == token else None
    return None
