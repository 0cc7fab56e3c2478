"""Whether this machine is as fast as it can be, for measurements that take minutes.

A shared machine is at times several times slower than it was a moment ago, without a sign of why.
So fixed work on all cores is timed before and after everything, and what was measured while the
machine was slow is measured again, but not for ever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TypeVar

import numpy as np

T = TypeVar("T")

SLOW, PROBES, TRIES = 2.0, 3, 2
"""A machine is slow when fixed work takes so many times what it took at best, in the median of so
many times; how often to try.
"""


class Quiet:
    """Knows how fast this machine can be, and whether it is."""

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._cores)
        self._best = min(self._probe() for _ in range(10 * PROBES))
        self._kept = self._thrown_away = self._taken_all_the_same = 0

    def when_quiet(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, where the machine was as fast as it can be before and after."""
        for _ in range(TRIES):
            slow = self._wait()
            result = work()
            slow |= self._is_slow()
            if not slow:
                self._kept += 1
                return result
            self._thrown_away += 1
        self._taken_all_the_same += 1
        return result

    def describe(self) -> str:
        return (
            f"{self._kept} measured while the machine was fast before and after; "
            f"{self._thrown_away} others, of which {self._taken_all_the_same} had to do"
        )

    def _wait(self) -> bool:
        """Whether it was in vain."""
        for _ in range(TRIES):
            if not self._is_slow():
                return False
            time.sleep(3)
        return True

    def _is_slow(self) -> bool:
        taken = [self._probe() for _ in range(PROBES)]
        self._best = min(self._best, *taken)
        return median(taken) > SLOW * self._best

    def _probe(self) -> float:
        start = time.perf_counter()
        list(self._pool.map(fixed_work, range(self._cores)))
        return time.perf_counter() - start


def fixed_work(_: int) -> None:
    """Some 40 ms of a core: products and copies."""
    square, line, copy = np.ones((256, 256), np.float32), np.ones(1_000_000), np.empty(1_000_000)
    for _ in range(40):
        np.copyto(copy, line)
        np.dot(square, square)
