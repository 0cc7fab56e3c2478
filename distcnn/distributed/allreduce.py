"""Sums over all ranks, started and finished by two calls: done at once, or on another thread while
the main thread continues to compute.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from distcnn.spans import ALLREDUCE, WAIT_FOR_SUMS, Span

AllreduceSum = Callable[[NDArray[Any]], None]
ALLREDUCE_SPAN = Span(ALLREDUCE)
_WAIT_FOR_SUMS = Span(WAIT_FOR_SUMS)

SECONDS_BETWEEN_POLLS = 1e-4
"""``mpi.allreduce_beside`` sleeps this long after each poll of MPI: a blocking allreduce would spin
on the core that computes (docs/overlap.md).
"""
TESTS_PER_POLL = 4
"""A poll calls MPI's ``Test`` this many times. UCX takes 64 KiB from a TCP connection per call: one
call per poll would limit it to half of 10 Gbit/s.
"""


class Allreduce:
    """Sums arrays in place over all ranks: ``start`` any number of them, then ``finish``. In this
    class, an array is summed before ``start`` returns.
    """

    def __init__(self, allreduce_sum: AllreduceSum) -> None:
        self._allreduce_sum = allreduce_sum

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        """Hand over ``values``: the sums after ``finish``. ``span`` marks the sum. Collective."""
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
        self._started: queue.Queue[tuple[NDArray[Any], Span]] = queue.Queue()
        threading.Thread(target=self._work, name="sums", daemon=True).start()

    def start(self, values: NDArray[Any], span: Span = ALLREDUCE_SPAN) -> None:
        self._started.put((values, span))

    def finish(self) -> None:
        with _WAIT_FOR_SUMS:
            self._started.join()

    def _work(self) -> None:
        while True:
            super().start(*self._started.get())
            self._started.task_done()
