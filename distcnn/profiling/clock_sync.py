"""Align the ranks' clocks with rank 0's. All times are in nanoseconds.

The ranks meet at barriers, and each reads its clock between two of them. No rank leaves a barrier
before all have entered it, so what a rank reads between two barriers happened, in rank 0's time,
between its readings before the first and after the second. Every such pair bounds the offset of
the clocks; the true offset satisfies all bounds (F. Cristian, Probabilistic clock synchronization,
1989, in the form of barriers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distcnn.distributed import Communicator
from distcnn.profiling.recorder import clock

ROUNDS = 100
"""Barriers: on oversubscribed cores few of them pass without a rank being descheduled."""


@dataclass(frozen=True)
class Offset:
    """A rank's clock is ahead of rank 0's by ``low`` to ``high`` when it reads ``at``."""

    low: int
    high: int
    at: int

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2

    @property
    def error(self) -> int:
        """By how much the middle may be wrong; a fast drift makes the bounds cross a little."""
        return abs(self.high - self.low + 1) // 2


@dataclass(frozen=True)
class Clock:
    """A rank's clock: its offset at the begin and at the end of a recording."""

    begin: Offset
    end: Offset

    @property
    def same(self) -> bool:
        """Whether it is rank 0's clock: Linux has one for all processes of a host."""
        return all(found.low <= 0 <= found.high for found in (self.begin, self.end))

    def to_root(self, times: Sequence[int]) -> list[int]:
        """``times`` of this clock in rank 0's time; drift is linear, so the order stays."""
        if self.same:
            return list(times)
        drift = (self.end.middle - self.begin.middle) / max(1, self.end.at - self.begin.at)
        read = np.array(times, np.int64)
        drifted = np.rint(drift * (read - self.begin.at)).astype(np.int64)
        converted: list[int] = (read - self.begin.middle - drifted).tolist()
        return converted

    @property
    def error(self) -> int:
        """By how much ``to_root`` may be wrong at the begin and the end."""
        return 0 if self.same else max(self.begin.error, self.end.error)


def measure_offsets(communicator: Communicator) -> list[Offset]:
    """Each rank's offset. Collective."""
    readings = [clock()]
    for _ in range(ROUNDS):
        communicator.barrier()
        readings.append(clock())
    everyone = communicator.allgather(readings)
    return [offset(everyone[0], of_rank) for of_rank in everyone]


def offset(of_root: Sequence[int], of_rank: Sequence[int]) -> Offset:
    """From the readings before the first barrier, between each two, and after the last."""
    inner = range(1, len(of_rank) - 1)
    low = max(of_rank[index] - of_root[index + 1] for index in inner)
    high = min(of_rank[index] - of_root[index - 1] for index in inner)
    return Offset(low, high, of_rank[-1])


def clocks_since(before: Sequence[Offset], communicator: Communicator) -> list[Clock]:
    """Each rank's clock since its offset was measured. Collective."""
    return [Clock(*ends) for ends in zip(before, measure_offsets(communicator), strict=True)]


def last_arrivals(begins: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each meeting of all ranks, when the last rank arrived, and which rank that was.

    ``begins`` has each rank's arrivals in one clock's time; a rank may lack the last meetings.
    """
    ranks = range(len(begins))
    return [max(zip(meeting, ranks, strict=True)) for meeting in zip(*begins, strict=False)]
