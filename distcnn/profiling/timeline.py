"""The listener behind ``--trace``: some steps in full, and what is done between steps."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict

from distcnn.profiling.recorder import Event, clock
from distcnn.spans import ALLREDUCE, STEP, Span

MOST_OF_STEPS = 100_000, 1_000_000
"""Slices within steps: on one rank, and on all ranks together. About 20 MB of a rank's memory, and
130 MB in the file.
"""
MOST_BETWEEN = 10_000, 100_000
"""Slices between steps, likewise."""

NOTHING, OUTERMOST, EVERYTHING = 0, 1, sys.maxsize
"""How many levels of nested spans are recorded."""


class Timeline:
    """Records the steps of ``window`` with all spans in them, and otherwise outermost spans only.

    So a test pass is one slice, not hundreds. A step that may not fit any more is left out.

    Args:
        window: the steps to record in full.
        world_size: the number of ranks, which share the room.
    """

    def __init__(self, window: range, world_size: int) -> None:
        self._window = window
        self._room = share_of(MOST_OF_STEPS, world_size)
        self._room_between = share_of(MOST_BETWEEN, world_size)
        self.events: list[Event] = []
        self.recorded = range(0)
        """The steps in ``events``."""
        self.is_full = False
        """Whether something was left out for lack of room."""
        self.main = threading.get_ident()
        self.thread_names: dict[int, str] = {}
        self._depth: defaultdict[int, int] = defaultdict(int)
        self._levels: dict[int, int] = {}
        self._largest_step, self._step_start, self._in_step = 1, 0, False

    def begin(self, span: Span) -> None:
        thread = threading.get_ident()
        depth = self._depth[thread]
        self._depth[thread] = depth + 1
        if depth == 0:
            self._levels[thread] = self._levels_of(span, thread)
        if depth < self._levels[thread]:
            self.events.append((span, thread, clock()))

    def end(self, span: Span) -> None:
        thread = threading.get_ident()
        depth = self._depth[thread] - 1
        if depth < 0:  # it began before recording did
            return
        self._depth[thread] = depth
        if depth < self._levels[thread]:
            self.events.append((None, thread, clock()))
        if self._in_step and depth == 0 and thread == self.main:
            slices = (len(self.events) - self._step_start) // 2
            self._room -= slices
            self._largest_step = max(self._largest_step, slices)
            self._in_step = False

    def _levels_of(self, span: Span, thread: int) -> int:
        """How much to record of an outermost span and what is within it."""
        if thread not in self.thread_names:
            self.thread_names[thread] = threading.current_thread().name
        if span.name == STEP and thread == self.main:
            return self._levels_of_step(int(str(span.labels["step"])))
        if span.name == ALLREDUCE and thread != self.main:
            return EVERYTHING if self._in_step else NOTHING
        if self._room_between == 0:
            self.is_full = True
            return NOTHING
        self._room_between -= 1
        return OUTERMOST

    def _levels_of_step(self, step: int) -> int:
        if step not in self._window:
            return NOTHING
        if self.is_full or self._largest_step > self._room:
            self.is_full = True
            return NOTHING
        self._in_step, self._step_start = True, len(self.events)
        self.recorded = range(self._window.start, step + 1)
        return EVERYTHING


def share_of(most: tuple[int, int], world_size: int) -> int:
    """How many slices one of ``world_size`` ranks may record."""
    return min(most[0], most[1] // world_size)
