"""A communicator that marks waiting for the other ranks, and notes the exit code of an abort."""

from __future__ import annotations

import signal
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed import Allreduce, Communicator
from distcnn.distributed.communicator import Mailbox
from distcnn.fault_tolerance.failure import note_exit
from distcnn.spans import COLLECTIVE, Span

T = TypeVar("T")

_COLLECTIVE = Span(COLLECTIVE)


class WatchedCommunicator:
    """``inner``, with every collective in a span."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.rank, self.world_size = inner.rank, inner.world_size
        self.description, self.hosts, self.job = inner.description, inner.hosts, inner.job

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        with _COLLECTIVE:
            self._inner.allreduce_sum(values)

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        with _COLLECTIVE:
            return self._inner.shared_floats(count)

    def allgather(self, item: T) -> list[T]:
        with _COLLECTIVE:
            return self._inner.allgather(item)

    def gather(self, item: T) -> list[T] | None:
        with _COLLECTIVE:
            return self._inner.gather(item)

    def broadcast(self, item: T) -> T:
        with _COLLECTIVE:
            return self._inner.broadcast(item)

    def barrier(self) -> None:
        with _COLLECTIVE:
            self._inner.barrier()

    def mailbox(self) -> Mailbox:
        return self._inner.mailbox()

    def background_allreduce(self) -> Allreduce | None:
        return self._inner.background_allreduce()

    def abort(self, exit_code: int) -> NoReturn:
        note_exit(exit_code)
        self._inner.abort(exit_code)

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self._inner.end_by_signal(number)
