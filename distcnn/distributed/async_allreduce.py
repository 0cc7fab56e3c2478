"""Buckets of the gradient, and their sums over all ranks: in the foreground, or while the main
thread goes on computing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from distcnn.spans import ALLREDUCE, WAIT_FOR_SUMS, Span

AllreduceSum = Callable[[NDArray[Any]], None]

ALLREDUCE_SPAN = Span(ALLREDUCE)
_WAIT_FOR_SUMS = Span(WAIT_FOR_SUMS)

SECONDS_BETWEEN_LOOKS = 1e-4
"""A blocking allreduce spins on the core that computes: 23 ms of CPU time for a sum of 31 ms, with
polling only 4 ms (docs/overlap.md).
"""
TESTS_A_LOOK = 4
"""UCX takes no more than 64 KiB from a TCP connection per ``Test``: a single one per poll reaches
only half of 10 Gbit/s.
"""


SMALLEST_BUCKET = 32768
"""Elements (256 KiB of float64): the sum of fewer costs latency rather than bandwidth."""


@dataclass(frozen=True)
class Bucket:
    """Elements ``start`` to ``stop`` of the flat gradient, which are summed in one message.

    ``number`` counts from 0, the last layers' bucket first, as backward completes them. The counts
    of the step (loss, correct answers, ...) travel with the bucket that ``is_last``.
    """

    number: int
    start: int
    stop: int
    is_last: bool

    @property
    def elements(self) -> slice:
        """To index a flat vector with."""
        return slice(self.start, self.stop)


def plan_buckets(borders: Sequence[int], smallest: int = SMALLEST_BUCKET) -> tuple[Bucket, ...]:
    """Cut a vector at some of ``borders`` (ascending, from 0 to its size), from its end to 0.

    Each bucket begins at the first border that gives it ``smallest`` elements, the last one at 0.
    A pure function, so the same on all ranks.
    """
    *inner, stop = borders
    spans = []
    for start in reversed(inner):
        if stop - start >= smallest and start > 0:
            spans.append((start, stop))
            stop = start
    spans.append((0, stop))
    last = len(spans) - 1
    return tuple(Bucket(number, *span, number == last) for number, span in enumerate(spans))


class Sums(Protocol):
    """Arrays that are summed over all ranks, each in place."""

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        """Hand over ``values``, which are the sums after ``finish``; ``span`` marks the summing.

        Collective: all ranks hand over the same shapes in the same order.
        """

    def finish(self) -> None:
        """Wait until all that was handed over is summed."""


class ForegroundSums:
    """Each sum is done before ``start`` returns."""

    def __init__(self, allreduce_sum: AllreduceSum) -> None:
        self._allreduce_sum = allreduce_sum

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        with span:
            self._allreduce_sum(values)

    def finish(self) -> None:
        """Nothing is left to wait for."""


class ThreadedSums(ForegroundSums):
    """Each sum is done by a thread, in the order of ``start``: MPI moves large messages only while
    somebody calls it.

    ``allreduce_sum`` must be safe beside whatever the main thread does: over a communicator of its
    own. What it raises goes to ``threading.excepthook``, which must end the process: the main
    thread would wait forever.
    """

    def __init__(self, allreduce_sum: AllreduceSum) -> None:
        super().__init__(allreduce_sum)
        self._started: queue.SimpleQueue[tuple[NDArray[Any], Span]] = queue.SimpleQueue()
        self._done = threading.Semaphore(0)
        self._pending = 0
        threading.Thread(target=self._work, name="sums", daemon=True).start()

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        self._pending += 1
        self._started.put((values, span))

    def finish(self) -> None:
        with _WAIT_FOR_SUMS:
            while self._pending:
                self._done.acquire()
                self._pending -= 1

    def _work(self) -> None:
        while True:
            super().start(*self._started.get())
            self._done.release()
