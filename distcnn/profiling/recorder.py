"""A listener that records spans, and the intervals that they become.

Recording must disturb the step as little as possible, so a span costs two appends to a list.
Timelines and seconds by layer are computed from them afterwards.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import get_ident

from distcnn.spans import Span

clock = time.perf_counter_ns
"""This rank's clock, in nanoseconds."""

SpanEvent = tuple[Span | None, int, int]
"""The span that began, or None where one ended; the thread; the time."""


@dataclass(slots=True)
class Interval:
    """One span of one thread.

    Args:
        span: what was done.
        thread: identifies the thread.
        begin, end: nanoseconds of a clock.
        parent: the span of the same thread that directly encloses it.
        inner: nanoseconds spent in the spans directly within it.
    """

    span: Span
    thread: int
    begin: int
    end: int = -1
    parent: Interval | None = None
    inner: int = 0

    @property
    def nanoseconds(self) -> int:
        """From begin to end."""
        return self.end - self.begin

    @property
    def exclusive(self) -> int:
        """Nanoseconds outside of the spans within it."""
        return self.end - self.begin - self.inner


class Recorder:
    """Records every span of every thread (a ``distcnn.spans.Listener``).

    recorder = Recorder()
    with listening(recorder):
        step(...)
    intervals_of(recorder.events)
    """

    def __init__(self) -> None:
        self.events: list[SpanEvent] = []
        self._append = self.events.append  # looked up once: there are hundreds of spans in a step

    def begin(self, span: Span) -> None:
        self._append((span, get_ident(), clock()))

    def end(self, span: Span) -> None:
        self._append((None, get_ident(), clock()))


def intervals_of(events: Iterable[SpanEvent]) -> list[Interval]:
    """The spans that both began and ended, in the order of their beginnings.

    So a span comes before those within it.
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


def title(span: Span) -> str:
    """What a slice is called: ``conv1 forward``, ``allreduce``."""
    layer = span.labels.get("layer")
    return f"{layer} {span.name}" if layer else span.name
