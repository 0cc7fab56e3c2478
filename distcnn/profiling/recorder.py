"""What is recorded: slices of time, in the order of their ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.fault_tolerance.heartbeat import pulse
from distcnn.training.parts import Work

clock = time.perf_counter_ns
"""This rank's."""

SLICE = np.dtype(
    [("part", "i4"), ("number", "i4"), ("begin", "i8"), ("end", "i8"), ("value", "f8")]
)
"""One slice: what it is of (see ``Parts``), which one of these, nanoseconds of this rank's clock,
and the loss or bytes.
"""

Slice = tuple[int, int, int, int, float]

Most = tuple[int, int]
"""Slices on one rank, and on all ranks together."""
MOST_OF_STEPS: Most = 100_000, 1_000_000
"""About 15 MB of each rank's memory, and 130 MB in the file."""
MOST_BETWEEN: Most = 10_000, 100_000
"""Of what is done between steps, likewise."""


class Counts(Enum):
    """What a slice's number is the number of, and what its value is."""

    NOTHING = 0
    STEP = 1
    """The value is its loss, NaN where it failed."""
    SHARD = 2
    BUCKET = 3
    """The value is the bytes of its gradient."""
    COLLECTIVE = 4
    """Of a bucket too: here all ranks meet. The value is the bytes that are summed."""
    RANK = 5


class Parts:
    """Numbers what slices are of: ``kinds`` has of each its name and what its slices' number
    counts.
    """

    def __init__(self) -> None:
        self.kinds: list[tuple[str, Counts]] = []

    def number_of(self, name: str, counts: Counts = Counts.NOTHING) -> int:
        """A new one, where there is none yet."""
        if (name, counts) not in self.kinds:
            self.kinds.append((name, counts))
        return self.kinds.index((name, counts))


@dataclass
class Recorder:
    """The slices of one thread, each as ``SLICE`` has it: at most ``most``, but that a step that
    was begun is recorded to its end.
    """

    most: int
    kept: list[Slice] = field(default_factory=list)
    refused: bool = False
    """Whether there was no room once: it takes nothing any more."""

    def add(self, part: int, number: int, begin: int, end: int, value: float = 0.0) -> None:
        """One slice."""
        self.kept.append((part, number, begin, end, value))

    def takes(self, slices: int = 1) -> bool:
        """Whether there is room for so many more."""
        self.refused = self.refused or len(self.kept) + slices > self.most
        return not self.refused

    @property
    def slices(self) -> NDArray[np.void]:
        """All, (slices,)."""
        return np.array(self.kept, SLICE)


def stopwatch(recorder: Recorder, part: int) -> Callable[[Work], Work]:
    """Around work on one shard, which is called by position.

    There are hundreds in a step, so it asks for no room, and calls little.
    """
    append, now, shard_of = (
        recorder.kept.append,
        clock,
        pulse,
    )  # names of this scope are found sooner than the module's

    def around(work: Work) -> Work:
        def call(*arguments: Any) -> Any:
            begin = now()
            result = work(*arguments)
            append((part, shard_of.detail, begin, now(), 0.0))
            return result

        return call

    return around


def share_of(most: Most, world_size: int) -> int:
    """What one rank of so many may record."""
    return min(most[0], most[1] // world_size)
