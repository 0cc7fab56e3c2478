"""Sums over all ranks, started and finished by two calls: done at once, or on another thread while
the main thread continues to compute. And their timing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distcnn.spans import ALLREDUCE, WAIT_FOR_SUMS, Span

if TYPE_CHECKING:
    from distcnn.distributed.communicator import Communicator

AllreduceSum = Callable[[NDArray[Any]], None]
ALLREDUCE_SPAN = Span(ALLREDUCE)
_WAIT_FOR_SUMS = Span(WAIT_FOR_SUMS)

SECONDS_BETWEEN_LOOKS = 1e-4
"""A blocking allreduce spins on the core that computes (docs/overlap.md)."""
TESTS_A_LOOK = 4
"""UCX takes 64 KiB from a TCP connection per ``Test``: one per poll is half of 10 Gbit/s."""
FEWEST_REPEATS, MOST_REPEATS = 3, 25


class Allreduce:
    """Sums arrays over all ranks, each in place: ``start`` any number of them, then ``finish``.

    Here each sum is done before ``start`` returns.
    """

    def __init__(self, allreduce_sum: AllreduceSum) -> None:
        self._allreduce_sum = allreduce_sum

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        """Hand over ``values``, which are the sums after ``finish``; ``span`` marks the summing.
        Collective.
        """
        with span:
            self._allreduce_sum(values)

    def finish(self) -> None:
        """Wait until all that was handed over is summed."""


class ThreadedAllreduce(Allreduce):
    """Each sum is done by a thread, in the order of ``start``, over a communicator of its own: MPI
    moves large messages only while somebody calls it. ``threading.excepthook`` must end the
    process after an exception: the main thread would wait forever.
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


def time_sums(
    communicator: Communicator, allreduce: Allreduce, sizes: Sequence[int], most_seconds: float
) -> list[tuple[int, float]]:
    """``(nbytes, seconds)`` of sums of float64 over all ranks, of ascending ``sizes`` in bytes;
    those for which no time is left are omitted. Collective.

    The seconds are the median of means over the ranks: they leave the barrier before a sum up to a
    latency apart, and a rank that leaves earlier waits correspondingly longer.
    """

    def one(values: NDArray[np.float64]) -> float:
        communicator.barrier()
        start = time.perf_counter()
        allreduce.start(values)
        allreduce.finish()
        return time.perf_counter() - start

    rows: list[tuple[int, float]] = []
    end = time.perf_counter() + most_seconds
    for number, nbytes in enumerate(sizes):
        values = np.zeros(nbytes // 8)
        one(values)  # the first of a size allocates buffers
        first = max(communicator.allgather(one(values)))
        left = min(communicator.allgather(end - time.perf_counter()))
        if FEWEST_REPEATS * first > left and len(rows) >= FEWEST_REPEATS:
            break
        share = left / (len(sizes) - number)  # small sizes leave nearly all of theirs
        repeats = max(FEWEST_REPEATS, min(MOST_REPEATS, int(share / first) - 1))
        everyone = communicator.allgather([one(values) for _ in range(repeats)])
        rows.append((nbytes, median(map(fmean, zip(*everyone, strict=True)))))
    return rows
