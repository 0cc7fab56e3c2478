"""A communicator that notes in the pulse when this rank waits for the others."""

from __future__ import annotations

import signal
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed import Communicator, Sums
from distcnn.distributed.communicator import Mailbox
from distcnn.fault_tolerance.failure import note_exit
from distcnn.fault_tolerance.heartbeat import pulse

T = TypeVar("T")


class WatchedCommunicator:
    """``inner``, with every collective between two notes."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.rank, self.world_size, self.description = (
            inner.rank,
            inner.world_size,
            inner.description,
        )
        self.hosts, self.job = inner.hosts, inner.job

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        pulse.wait(True)
        self._inner.allreduce_sum(values)
        pulse.wait(False)

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        pulse.wait(True)
        floats = self._inner.shared_floats(count)
        pulse.wait(False)
        return floats

    def allgather(self, item: T) -> list[T]:
        pulse.wait(True)
        items = self._inner.allgather(item)
        pulse.wait(False)
        return items

    def gather(self, item: T) -> list[T] | None:
        pulse.wait(True)
        items = self._inner.gather(item)
        pulse.wait(False)
        return items

    def broadcast(self, item: T) -> T:
        pulse.wait(True)
        root_item = self._inner.broadcast(item)
        pulse.wait(False)
        return root_item

    def barrier(self) -> None:
        pulse.wait(True)
        self._inner.barrier()
        pulse.wait(False)

    def mailbox(self) -> Mailbox:
        return self._inner.mailbox()

    def background_sums(self) -> Sums | None:
        sums = self._inner.background_sums()
        return WatchedSums(sums) if sums else None

    def abort(self, exit_code: int) -> NoReturn:
        note_exit(exit_code)
        self._inner.abort(exit_code)

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self._inner.end_by_signal(number)


class WatchedSums:
    """``inner``, with the main thread's waiting between two notes."""

    def __init__(self, inner: Sums) -> None:
        self.inner = inner

    @property
    def allreduce_seconds(self) -> float:
        return self.inner.allreduce_seconds

    def start(self, values: NDArray[Any]) -> None:
        self.inner.start(values)

    def finish(self) -> None:
        pulse.wait(True)
        self.inner.finish()
        pulse.wait(False)
