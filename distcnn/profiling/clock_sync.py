"""The ranks' clocks, brought to rank 0's.

The ranks meet at barriers, and each reads its clock between two of them. No rank leaves a barrier
before all have come to it, so what a rank reads after one and before the next lies, in rank 0's
time, between what rank 0 read before the one and after the other. Every such pair bounds how far
the clocks are apart; all bounds hold, so the truth is in what they have in common (F. Cristian,
Probabilistic clock synchronization, 1989, in the form of barriers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed import Communicator
from distcnn.profiling.recorder import clock

ROUNDS = 100
"""Barriers: where ranks share cores, few of them go through without one being put aside."""


@dataclass(frozen=True)
class Offset:
    """A rank's clock is ahead of rank 0's by from ``low`` to ``high`` nanoseconds, when it reads
    ``at``.
    """

    low: int
    high: int
    at: int

    @property
    def middle(self) -> int:
        """The estimate."""
        return (self.low + self.high) // 2

    @property
    def error(self) -> int:
        """By how much that may be wrong."""
        return (
            abs(self.high - self.low + 1) // 2
        )  # a clock that drifts fast contradicts itself by a little


@dataclass(frozen=True)
class Clock:
    """A rank's clock, by what was measured at the ``begin`` and the ``end``, between which it may
    have drifted.
    """

    begin: Offset
    end: Offset
    same: bool
    """It is rank 0's very clock: their host is one, and the measurements allow it."""

    def to_root(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's ``times`` in rank 0's time, in the same order."""
        if self.same:
            return times
        drift = (self.end.middle - self.begin.middle) / max(1, self.end.at - self.begin.at)
        drifted: NDArray[np.int64] = np.rint(drift * (times - self.begin.at)).astype(np.int64)
        return times - (self.begin.middle + drifted)

    @property
    def error(self) -> int:
        """Nanoseconds by which ``to_root`` may be wrong where it was measured."""
        return 0 if self.same else max(self.begin.error, self.end.error)


def measure_offsets(communicator: Communicator) -> list[Offset]:
    """Each rank's, the same on all ranks. Collective."""
    readings = [clock()]
    for _ in range(ROUNDS):
        communicator.barrier()
        readings.append(clock())
    everyone = communicator.allgather(readings)
    return [offset(everyone[0], each) for each in everyone]


def offset(of_root: Sequence[int], of_rank: Sequence[int]) -> Offset:
    """From the readings before the first barrier, between each two, and after the last."""
    inner = range(1, len(of_rank) - 1)
    low = max(of_rank[each] - of_root[each + 1] for each in inner)
    high = min(of_rank[each] - of_root[each - 1] for each in inner)
    return Offset(low, high, of_rank[-1])


def clocks_of(hosts: Sequence[str], begin: Sequence[Offset], end: Sequence[Offset]) -> list[Clock]:
    """Each rank's.

    Linux has one such clock for all processes of a host, unless it is made otherwise, which the
    measurements tell.
    """
    return [
        Clock(
            first,
            last,
            host == hosts[0] and all(each.low <= 0 <= each.high for each in (first, last)),
        )
        for host, first, last in zip(hosts, begin, end, strict=True)
    ]
