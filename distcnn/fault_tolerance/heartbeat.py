"""What this process is doing now, for whoever must say so when it fails or stalls.

The main thread notes each change of activity (about a microsecond) in a small piece of memory that
other processes on the host can read through ``/proc/<pid>/fd``, even when this one has been
stopped. Nothing is left behind when the process ends.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Activity(IntEnum):
    """What the main thread may be doing."""

    STARTING = 0
    READING_DATA = 1
    COMPUTING_SHARD = 2
    SUMMING = 3
    UPDATING = 4
    EVALUATING = 5
    SUMMING_EVALUATION = 6
    COMPARING = 7
    SAVING = 8
    ENDING = 9
    DEBUGGING = 10
    MEASURING = 11
    OPENING_DATA = 12
    PREPARING_DATA = 13
    BUILDING = 14
    COMPARING_RANKS = 15
    READING_RUN = 16
    RESTORING = 17
    CREATING_RUN = 18
    WAITING_FOR_WINDOW = 19
    WAITING_FOR_TEST_WINDOW = 20
    CHECKING_EPOCH = 21
    WRITING_LINES = 22
    WRITING_RESULTS = 23


TEXTS: Final = {
    Activity.STARTING: "starting",
    Activity.READING_RUN: "reading the run directory",
    Activity.PREPARING_DATA: "preparing the image set",
    Activity.OPENING_DATA: "opening the image set",
    Activity.BUILDING: "building the network",
    Activity.READING_DATA: "reading and hashing the image set",
    Activity.COMPARING_RANKS: "comparing settings and software of the ranks",
    Activity.RESTORING: "restoring the checkpoint",
    Activity.CREATING_RUN: "creating the run directory",
    Activity.WAITING_FOR_WINDOW: "waiting until a window of shard {detail} is read",
    Activity.COMPUTING_SHARD: "forward and backward of shard {detail}",
    Activity.SUMMING: "sum of the gradients",
    Activity.UPDATING: "updating the weights",
    Activity.CHECKING_EPOCH: "checking that the epoch used every example once",
    Activity.EVALUATING: "evaluating block {detail} of the test set",
    Activity.WAITING_FOR_TEST_WINDOW: (
        "waiting until a window of the test set is read, for block {detail}"
    ),
    Activity.SUMMING_EVALUATION: "sums of the evaluation",
    Activity.COMPARING: "hashing and comparing the weights",
    Activity.WRITING_LINES: "writing metrics and receipt",
    Activity.SAVING: "saving a checkpoint",
    Activity.WRITING_RESULTS: "writing weights and results",
    Activity.ENDING: "ending",
    Activity.DEBUGGING: "debugging",
    Activity.MEASURING: "measuring",
}

NOTE = struct.Struct("<qqqqd")
"""Step, activity, detail, waiting (0 or 1), since when; then the time of the stack, its length and
its text.
"""
STACK = struct.Struct("<dI")
STACK_BYTES = 16384
_TOTAL_BYTES = NOTE.size + STACK.size + STACK_BYTES


@dataclass(frozen=True)
class Beat:
    """One reading: ``step`` -1 before the first; times are of ``time.monotonic()``, which all
    processes of a host share.
    """

    step: int
    activity: Activity
    detail: int
    waiting: bool
    """Whether it waits for the other ranks to do their part."""
    since: float
    stack_time: float
    stack: str

    def text(self) -> str:
        """Step and activity in words."""
        where = f"step {self.step}, " if self.step >= 0 else ""
        waiting = "waiting for all ranks: " if self.waiting else ""
        return where + waiting + TEXTS[self.activity].format(detail=self.detail)


class Pulse:
    """This process's notes. ``beats`` counts them."""

    def __init__(self) -> None:
        self.descriptor = (
            os.memfd_create("distcnn-pulse", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else -1
        )
        if self.descriptor >= 0:
            os.ftruncate(self.descriptor, _TOTAL_BYTES)
        self._memory = mmap.mmap(self.descriptor, _TOTAL_BYTES)
        self.beats = 0
        self.activity, self.detail = Activity.STARTING, 0
        """What the main thread does, and what that is about: a shard, or a block of the test set.
        """
        self._step = -1
        self.beat(Activity.STARTING)

    def beat(self, activity: Activity, step: int | None = None, detail: int = 0) -> None:
        """The main thread begins ``activity``, in ``step`` (by default the step before)."""
        if step is not None:
            self._step = step
        self.activity, self.detail = activity, detail
        self._note(0)

    @contextmanager
    def doing(self, activity: Activity) -> Iterator[None]:
        """While it is entered the main thread does ``activity``, about the same detail; then what
        it did before.
        """
        before = self.activity
        self.beat(activity, detail=self.detail)
        yield
        self.beat(before, detail=self.detail)

    def wait(self, waiting: bool) -> None:
        """The main thread begins to wait for the other ranks, or need not wait any longer."""
        self._note(int(waiting))

    def _note(self, waiting: int) -> None:
        self.beats += 1
        NOTE.pack_into(
            self._memory, 0, self._step, self.activity, self.detail, waiting, time.monotonic()
        )

    def note_stack(self, stack: str) -> None:
        """Keep the main thread's stack as it is now: its inner end, where it does not fit."""
        raw = stack.encode(errors="replace")[-STACK_BYTES:]
        begin = NOTE.size + STACK.size
        self._memory[begin : begin + len(raw)] = raw
        STACK.pack_into(self._memory, NOTE.size, time.monotonic(), len(raw))

    def read(self) -> Beat:
        """What was noted last."""
        return _parse(bytes(self._memory))


def read_other(pid: int, descriptor: int) -> Beat | None:
    """What another process of this host and user noted last; None when that cannot be read."""
    try:
        with open(f"/proc/{pid}/fd/{descriptor}", "rb") as file:  # noqa: PTH123
            raw = file.read(_TOTAL_BYTES)
    except OSError:
        return None
    return _parse(raw) if len(raw) == _TOTAL_BYTES else None


def _parse(raw: bytes) -> Beat:
    step, activity, detail, waiting, since = NOTE.unpack_from(raw)
    stack_time, length = STACK.unpack_from(raw, NOTE.size)
    begin = NOTE.size + STACK.size
    stack = raw[begin : begin + length].decode(errors="replace")
    return Beat(step, Activity(activity), detail, bool(waiting), since, stack_time, stack)


pulse = Pulse()
"""The process's own: a process does one thing at a time."""
