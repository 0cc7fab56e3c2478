"""From intervals to events."""

from __future__ import annotations

import json

from distcnn.profiling.chrome_trace import document, lines_of, name_events, slice_event
from distcnn.profiling.recorder import Interval
from distcnn.profiling.tracing import waiting
from distcnn.spans import Span

STEP, LAYER = Span("step", step=9, epoch=2), Span("forward", layer="conv1")
SUM = Span("allreduce", nbytes=8)


def test_events_by_hand() -> None:
    step = slice_event(3, 0, Interval(STEP, 7, 1000, 5130))
    layer = slice_event(3, 1, Interval(LAYER, 8, 6000, 6000))
    place = {"ph": "X", "pid": 3}
    assert step == place | {
        **{"name": "step", "tid": 1_000_003, "ts": 1.0, "dur": 4.125},
        "args": {"step": 9, "epoch": 2},
    }
    assert layer == place | {"name": "conv1 forward", "tid": 2_000_003, "ts": 6.0, "dur": 0.0}
    content = json.loads(b"".join(document([lines_of([step]), lines_of([layer])], {"model": "m"})))
    assert content == {
        "traceEvents": [step, layer],
        "displayTimeUnit": "ms",
        "otherData": {"model": "m"},
    }


def test_threads_are_named_and_numbered_once_over_all_ranks() -> None:
    events = [event for rank in (0, 1) for event in name_events(rank, "h", ["main", "sums"])]
    threads = [event for event in events if event["name"] == "thread_name"]
    assert [event["args"]["name"] for event in threads] == ["main", "sums"] * 2
    assert len({event["tid"] for event in threads}) == 4


def test_waiting_ends_when_the_last_rank_arrives() -> None:
    met = [Interval(SUM, 1, 10, 30), Interval(SUM, 1, 50, 60), Interval(SUM, 1, 70, 80)]
    # Of three ranks, one recorded two sums only.
    waits = waiting(met, [[10, 50, 70], [25, 40], [12, 65, 70]])
    assert [(wait.span.labels, wait.begin, wait.end) for wait in waits] == [
        ({"rank": 1}, 10, 25),
        ({"rank": 2}, 50, 60),
    ]
    assert not waiting(met, [[10, 50, 70], [9, 40, 60]])  # the last interval waits for nobody
