"""What this process is doing now, for whoever must say so when it fails or stalls.

The main thread notes each change of activity (about a microsecond) in a small piece of memory that other processes on the host can read
through ``/proc/<pid>/fd``, even when this one has been stopped. Nothing is left behind when the process ends.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Activity(IntEnum):
    """What the main thread may be doing. WAITING_ ones end when the other ranks do their part."""

    STARTING = 0
    READING_DATA = 1
    COMPUTING_SHARD = 2
    WAITING_FOR_SUM = 3
    UPDATING = 4
    EVALUATING = 5
    WAITING_FOR_EVALUATION = 6
    HASHING = 7
    WAITING_FOR_HASHES = 8
    SAVING = 9
    WAITING_FOR_START = 10
    ENDING = 11
    DEBUGGING = 12
    WAITING_FOR_SAVING = 13


TEXTS: Final = {
    Activity.STARTING: "starting",
    Activity.READING_DATA: "reading data",
    Activity.COMPUTING_SHARD: "forward and backward of shard {detail}",
    Activity.WAITING_FOR_SUM: "waiting for all ranks: sum of the gradients",
    Activity.UPDATING: "updating the weights",
    Activity.EVALUATING: "evaluating block {detail} of the test set",
    Activity.WAITING_FOR_EVALUATION: "waiting for all ranks: sums of the evaluation",
    Activity.HASHING: "hashing the weights",
    Activity.WAITING_FOR_HASHES: "waiting for all ranks: comparing hashes",
    Activity.SAVING: "writing metrics, a checkpoint or results",
    Activity.WAITING_FOR_START: "waiting for all ranks: start",
    Activity.ENDING: "ending",
    Activity.DEBUGGING: "debugging",
    Activity.WAITING_FOR_SAVING: "waiting for rank 0: saving",
}

RECORD = struct.Struct("<qqqdd")
STACK_BYTES = 16384
_TOTAL_BYTES = RECORD.size + 4 + STACK_BYTES


@dataclass(frozen=True)
class Beat:
    """One reading: ``step`` -1 before the first; times are of ``time.monotonic()``, which all processes of a host share."""

    step: int
    activity: Activity
    detail: int
    since: float
    stack_time: float
    stack: str

    @property
    def waiting(self) -> bool:
        """Whether it waits for other ranks."""
        return self.activity.name.startswith("WAITING")

    def text(self) -> str:
        """Step and activity in words."""
        where = f"step {self.step}, " if self.step >= 0 else ""
        return where + TEXTS[self.activity].format(detail=self.detail)


class Pulse:
    """This process's notes. ``beats`` counts them."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("distcnn-pulse", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else -1
        if self.descriptor >= 0:
            os.ftruncate(self.descriptor, _TOTAL_BYTES)
        self._memory = mmap.mmap(self.descriptor, _TOTAL_BYTES)
        self.beats = 0
        self._step = -1
        self.beat(Activity.STARTING)

    def beat(self, activity: Activity, step: int | None = None, detail: int = 0) -> None:
        """The main thread begins ``activity``, in ``step`` (by default the step before)."""
        if step is not None:
            self._step = step
        self.beats += 1
        struct.pack_into("<qqqd", self._memory, 0, self._step, activity, detail, time.monotonic())

    def note_stack(self, stack: str) -> None:
        """Keep the main thread's stack as it is now: its inner end, where it does not fit."""
        raw = stack.encode(errors="replace")[-STACK_BYTES:]
        self._memory[RECORD.size + 4 : RECORD.size + 4 + len(raw)] = raw
        struct.pack_into("<dI", self._memory, RECORD.size - 8, time.monotonic(), len(raw))

    def read(self) -> Beat:
        """What was noted last."""
        return _parse(bytes(self._memory))


def read_other(pid: int, descriptor: int) -> Beat | None:
    """What another process of this host and user noted last; None when that cannot be read."""
    try:
        with open(f"/proc/{pid}/fd/{descriptor}", "rb") as file:  # noqa: PTH123  (a descriptor of another process)
            raw = file.read(_TOTAL_BYTES)
    except OSError:
        return None
    return _parse(raw) if len(raw) == _TOTAL_BYTES else None


def _parse(raw: bytes) -> Beat:
    step, activity, detail, since, stack_time = RECORD.unpack_from(raw)
    (length,) = struct.unpack_from("<I", raw, RECORD.size)
    stack = raw[RECORD.size + 4 : RECORD.size + 4 + length].decode(errors="replace")
    return Beat(step, Activity(activity), detail, since, stack_time, stack)


pulse = Pulse()
"""The process's own: a process does one thing at a time."""
