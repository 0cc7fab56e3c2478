"""A communicator that notes in the pulse when this rank waits for the others."""

from __future__ import annotations

import signal
from typing import Any, NoReturn, TypeVar

from numpy.typing import DTypeLike, NDArray

from distcnn.faults.pulse import pulse
from distcnn.parallel import Communicator, Sums
from distcnn.parallel.communicator import Mailbox

T = TypeVar("T")


class WatchedCommunicator:
    """``inner``, with every collective between two notes."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.rank, self.world_size, self.description = inner.rank, inner.world_size, inner.description
        self.hosts, self.job = inner.hosts, inner.job

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        pulse.wait(True)
        self._inner.allreduce_sum(values)
        pulse.wait(False)

    def vector(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        pulse.wait(True)
        zeros = self._inner.vector(size, dtype)
        pulse.wait(False)
        return zeros

    def foreground_sums(self, vector: NDArray[Any]) -> Sums:
        return WatchedSums(self._inner.foreground_sums(vector))

    def allgather(self, item: T) -> list[T]:
        pulse.wait(True)
        items = self._inner.allgather(item)
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
        self._inner.abort(exit_code)

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self._inner.end_by_signal(number)


class WatchedSums:
    """``inner``, with the main thread's waiting between two notes."""

    def __init__(self, inner: Sums) -> None:
        self._inner = inner

    @property
    def allreduce_seconds(self) -> float:
        return self._inner.allreduce_seconds

    def start(self, values: NDArray[Any]) -> None:
        pulse.wait(True)
        self._inner.start(values)
        pulse.wait(False)

    def finish(self) -> None:
        pulse.wait(True)
        self._inner.finish()
        pulse.wait(False)

    def rounded(self, values: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        return self._inner.rounded(values, out)
