"""Listeners that record spans, and the intervals that these become.

Recording must disturb the step as little as possible, so a span costs two appends to a list.
Timelines and seconds by layer are computed from them afterwards.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import current_thread, get_ident

from distcnn.spans import ALLREDUCE, STEP, Span

clock = time.perf_counter_ns
"""This rank's clock, in nanoseconds."""

SpanEvent = tuple[Span | None, int, int]
"""The span that began, or None where one ended; the thread; the time."""

MOST_SLICES, MOST_SLICES_OF_ALL_RANKS = 100_000, 1_000_000
"""About 20 MB of a rank's memory, and 130 MB in the file."""

NOTHING, OUTERMOST, EVERYTHING = 0, 1, sys.maxsize
"""How many levels of nested spans a timeline records."""


@dataclass(slots=True)
class Interval:
    """One span of one thread, in nanoseconds of a clock."""

    span: Span
    thread: int
    begin: int
    end: int = -1
    parent: Interval | None = None
    """The span of the same thread that directly encloses it."""
    inner: int = 0
    """Nanoseconds spent in the spans directly within it."""

    @property
    def nanoseconds(self) -> int:
        return self.end - self.begin

    @property
    def exclusive(self) -> int:
        """Nanoseconds outside of the spans within it."""
        return self.nanoseconds - self.inner

    @property
    def title(self) -> str:
        """What a slice is called: ``conv1 forward``, ``allreduce``."""
        layer = self.span.labels.get("layer")
        return f"{layer} {self.span.name}" if layer else self.span.name


class Recorder:
    """Records every span of every thread."""

    def __init__(self) -> None:
        self.events: list[SpanEvent] = []
        self._append = self.events.append  # looked up once: there are hundreds of spans in a step

    def begin(self, span: Span) -> None:
        self._append((span, get_ident(), clock()))

    def end(self, span: Span) -> None:
        self._append((None, get_ident(), clock()))


class Timeline:
    """Records the steps of ``window`` with all spans in them, and otherwise outermost spans only,
    so that a test pass is one slice, not hundreds. The ranks share the room.
    """

    def __init__(self, window: range, world_size: int) -> None:
        self._window = window
        self._most_events = 2 * min(MOST_SLICES, MOST_SLICES_OF_ALL_RANKS // world_size)
        self.events: list[SpanEvent] = []
        self.recorded = range(0)
        """The steps in ``events``."""
        self.is_full = False
        """Whether something was left out for lack of room."""
        self._main = get_ident()
        self.thread_names = {self._main: "main"}
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
        if span.name == ALLREDUCE and thread != self._main:  # by overlap, within a step
            return self._levels.get(self._main, NOTHING) if self._depth[self._main] else NOTHING
        if span.name == STEP and span.labels["step"] not in self._window:
            return NOTHING
        if len(self.events) >= self._most_events:
            self.is_full = True
            return NOTHING
        if span.name != STEP:
            return OUTERMOST
        self.recorded = range(self._window.start, int(str(span.labels["step"])) + 1)
        return EVERYTHING


def intervals_of(events: Iterable[SpanEvent]) -> list[Interval]:
    """The spans that both began and ended, in the order of their beginnings: a span comes before
    those within it.
    """
    intervals: list[Interval] = []
    open_intervals: defaultdict[int, list[Interval]] = defaultdict(list)
    for span, thread, now in events:
        stack = open_intervals[thread]
        if span is not None:
            stack.append(Interval(span, thread, now, parent=stack[-1] if stack else None))
            intervals.append(stack[-1])
        elif stack:  # else it began before recording did
            ended = stack.pop()
            ended.end = now
            if ended.parent is not None:
                ended.parent.inner += ended.nanoseconds
    return [interval for interval in intervals if interval.end >= 0]
