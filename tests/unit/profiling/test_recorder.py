"""The recorder receives spans of all threads; intervals nest as the spans did."""

from __future__ import annotations

import threading

import pytest

from distcnn.profiling.recorder import Interval, Recorder, SpanEvent, intervals_of
from distcnn.spans import Span, listening

STEP, LAYER, LOSS = Span("step", step=3), Span("forward", layer="conv1"), Span("loss")


def test_intervals_from_events_by_hand() -> None:
    events: list[SpanEvent] = [
        (None, 1, 5),  # its beginning was before the recording
        (STEP, 1, 10),
        (LAYER, 1, 12),
        (LOSS, 2, 13),  # on another thread
        (LAYER, 1, 14),
        (None, 1, 17),
        (None, 2, 18),
        (None, 1, 20),
        (None, 1, 30),
        (LOSS, 1, 31),  # not over yet
    ]
    step, outer, elsewhere, inner = intervals_of(events)
    assert [
        (interval.span, interval.begin, interval.end)
        for interval in (step, outer, elsewhere, inner)
    ] == [(STEP, 10, 30), (LAYER, 12, 20), (LOSS, 13, 18), (LAYER, 14, 17)]
    assert (step.parent, outer.parent, inner.parent, elsewhere.parent) == (None, step, outer, None)
    assert [interval.exclusive for interval in (step, outer, inner)] == [12, 5, 3]


def test_it_records_every_thread_while_it_listens_and_also_what_fails() -> None:
    def work() -> None:
        with LAYER:
            pass

    recorder = Recorder()
    with STEP, listening(recorder):
        with pytest.raises(ZeroDivisionError), LOSS:
            _ = 1 / 0
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    with LOSS:
        pass
    loss, layer = intervals_of(recorder.events)
    assert (loss.span, layer.span) == (LOSS, LAYER)
    assert loss.thread == threading.get_ident() != layer.thread
    assert loss.nanoseconds >= 0


def test_titles() -> None:
    assert [Interval(span, 0, 0).title for span in (STEP, LAYER)] == ["step", "conv1 forward"]
