"""The listener behind ``--trace``: some steps in full, and the work between steps."""

from __future__ import annotations

import sys
from collections import defaultdict
from threading import current_thread, get_ident

from distcnn.profiling.recorder import SpanEvent, clock
from distcnn.spans import ALLREDUCE, STEP, Span

MOST_SLICES, MOST_SLICES_OF_ALL_RANKS = 100_000, 1_000_000
"""About 20 MB of a rank's memory, and 130 MB in the file."""

NOTHING, OUTERMOST, EVERYTHING = 0, 1, sys.maxsize
"""How many levels of nested spans are recorded."""


class Timeline:
    """Records the steps of ``window`` with all spans in them, and otherwise outermost spans only,
    so that a test pass is one slice, not hundreds.

    Args:
        window: the steps to record in full.
        world_size: the number of ranks, which share the room.
    """

    def __init__(self, window: range, world_size: int) -> None:
        self._window = window
        self._most_events = 2 * min(MOST_SLICES, MOST_SLICES_OF_ALL_RANKS // world_size)
        self.events: list[SpanEvent] = []
        self.recorded = range(0)
        """The steps in ``events``."""
        self.is_full = False
        """Whether something was left out for lack of room."""
        self.main = get_ident()
        self.thread_names: dict[int, str] = {}
        self._depth: defaultdict[int, int] = defaultdict(int)
        self._levels: dict[int, int] = {}

    def begin(self, span: Span) -> None:
        thread = get_ident()
        depth = self._depth[thread]
        self._depth[thread] = depth + 1
        if depth == 0:
            self._levels[thread] = self._levels_of(span, thread)
        if depth < self._levels[thread]:
            self.events.append((span, thread, clock()))

    def end(self, span: Span) -> None:
        thread = get_ident()
        depth = self._depth[thread] - 1
        if depth >= 0:  # else it began before recording did
            self._depth[thread] = depth
            if depth < self._levels[thread]:
                self.events.append((None, thread, clock()))

    def _levels_of(self, span: Span, thread: int) -> int:
        """How many levels of an outermost span to record; spans are recorded to their end."""
        if thread not in self.thread_names:
            self.thread_names[thread] = current_thread().name
        if span.name == ALLREDUCE and thread != self.main:  # by overlap, within a step
            return self._levels.get(self.main, NOTHING) if self._depth[self.main] else NOTHING
        if span.name == STEP and span.labels["step"] not in self._window:
            return NOTHING
        if len(self.events) >= self._most_events:
            self.is_full = True
            return NOTHING
        if span.name != STEP:
            return OUTERMOST
        self.recorded = range(self._window.start, int(str(span.labels["step"])) + 1)
        return EVERYTHING
