"""The heartbeat: what this process is doing now, for reports of failures and stalls.

A listener of spans that notes each change of activity (about two microseconds) in memory that other
processes of the host can read through ``/proc/<pid>/fd``, even when this one has been stopped.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from distcnn import spans
from distcnn.spans import Span

TEXTS: Final = {
    spans.READ_RUN: "reading the run directory",
    spans.PREPARE_DATA: "preparing the image set",
    spans.OPEN_DATA: "opening the image set",
    spans.BUILD_NETWORK: "building the network",
    spans.SURVEY_DATA: "reading and hashing the image set",
    spans.COMPARE_RANKS: "comparing settings and software of the ranks",
    spans.RESTORE: "restoring the checkpoint",
    spans.CREATE_RUN: "creating the run directory",
    spans.SHARD: "forward and backward of shard {shard}",
    spans.WAIT_FOR_WINDOW: "{outer}: waiting for a data window",
    spans.REDUCE: "sum of the gradients",
    spans.SPOT_CHECK: "repeating shards for a spot check",
    spans.UPDATE: "updating the weights",
    spans.CLOSE_EPOCH: "checking that the epoch used every example once",
    spans.TEST_BLOCK: "evaluating block {block} of the test set",
    spans.SUM_EVALUATION: "sums of the evaluation",
    spans.COMPARE_WEIGHTS: "hashing and comparing the weights",
    spans.WRITE_METRICS: "writing metrics and receipt",
    spans.WRITE_RECEIPT: "writing metrics and receipt",
    spans.CHECKPOINT: "saving a checkpoint",
    spans.WAIT_FOR_CHECKPOINT: "saving a checkpoint",
    spans.WRITE_RESULTS: "writing weights and results",
    spans.DEBUG: "debugging",
    spans.MEASURE: "measuring",
}
"""What spans do. A step has only its number."""
WAITS: Final = {spans.COLLECTIVE, spans.WAIT_FOR_SUMS}
"""Spans in which the main thread waits for other ranks."""
NOTED: Final = TEXTS.keys() | WAITS | {spans.STEP, spans.PROGRESS}

STACK_BYTES = 16384
NOTE, STACK = struct.Struct("<qqd160s"), struct.Struct(f"<d{STACK_BYTES}s")
"""Step, waiting (0 or 1), since when, activity; then time and text of the stack."""
_TOTAL_BYTES = NOTE.size + STACK.size


@dataclass(frozen=True)
class Beat:
    """What the main thread of a process does, ``waiting`` for the other ranks or not."""

    step: int
    """The latest that was started, -1 before the first."""
    activity: str
    waiting: bool
    seconds: float
    """Since the activity began."""
    stack: str
    stack_seconds: float
    """Since the stack was noted."""

    def text(self) -> str:
        """Step and activity as text."""
        where = f"step {self.step}, " if self.step >= 0 else ""
        return where + "waiting for all ranks: " * self.waiting + self.activity


class Heartbeat:
    """Notes of this process: ``beats`` counts all spans; the main thread's are activities."""

    def __init__(self) -> None:
        self.beats = 0
        self._step, self._activity, self._waiting = -1, "starting", False
        self._outer: list[str] = []
        self._main: int | None = None

    @cached_property
    def descriptor(self) -> int:
        """The descriptor of the memory that other processes read; -1 without such memory."""
        if not hasattr(os, "memfd_create"):
            return -1
        descriptor = os.memfd_create("distcnn-heartbeat", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _TOTAL_BYTES)
        return descriptor

    @cached_property
    def _memory(self) -> mmap.mmap:
        memory = mmap.mmap(self.descriptor, _TOTAL_BYTES)
        NOTE.pack_into(memory, 0, self._step, False, time.monotonic(), self._activity.encode())
        return memory

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the spans of this thread, the main one."""
        if self._main is not None:
            yield
            return
        self._main = threading.get_ident()
        try:
            with spans.listening(self, NOTED):
                yield
        finally:
            self._main = None
            self._outer.clear()

    def begin(self, span: Span) -> None:
        if threading.get_ident() == self._main:
            if span.name == spans.STEP:
                self._step = int(str(span.labels.get("step", -1)))
            elif span.name in WAITS:
                self._waiting = True
            elif span.name in TEXTS:
                self._outer.append(self._activity)
                self._activity = TEXTS[span.name].format(**span.labels, outer=self._activity)
                self._waiting = False
        self._note()

    def end(self, span: Span) -> None:
        """Return to the enclosing activity; an outermost one is kept for reports of exceptions."""
        self.beats += 1
        if threading.get_ident() == self._main:
            if span.name in WAITS:
                self._waiting = False
                self._note()
            elif span.name in TEXTS and self._outer:
                outer = self._outer.pop()
                if self._outer:
                    self._activity = outer
                    self._note()

    def note_stack(self, stack: str) -> None:
        """Keep the main thread's current stack, or its innermost part if it is too long."""
        raw = stack.encode(errors="replace")[-STACK_BYTES:]
        STACK.pack_into(self._memory, NOTE.size, time.monotonic(), raw)

    def read(self) -> Beat:
        return _parse(bytes(self._memory))

    def _note(self) -> None:
        self.beats += 1
        activity = self._activity.encode(errors="replace")
        NOTE.pack_into(self._memory, 0, self._step, self._waiting, time.monotonic(), activity)


def read_other(pid: int, descriptor: int) -> Beat | None:
    """The latest state of another process of this host and user; None if it cannot be read."""
    with suppress(OSError), Path(f"/proc/{pid}/fd/{descriptor}").open("rb") as file:
        raw = file.read(_TOTAL_BYTES)
        if len(raw) == _TOTAL_BYTES:
            return _parse(raw)
    return None


def _parse(raw: bytes) -> Beat:
    step, waiting, since, activity = NOTE.unpack_from(raw)
    noted, stack = STACK.unpack_from(raw, NOTE.size)
    now = time.monotonic()  # the same clock in all processes of a host
    text, stack_text = (each.rstrip(b"\0").decode(errors="replace") for each in (activity, stack))
    return Beat(step, text, bool(waiting), now - since, stack_text, now - noted)


heartbeat = Heartbeat()
"""The process's own."""
