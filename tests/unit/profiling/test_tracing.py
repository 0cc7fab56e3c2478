"""Intervals become events of Chrome's format."""

from __future__ import annotations

from distcnn.profiling.recorder import Interval
from distcnn.profiling.tracing import name_events, slice_event, waiting
from distcnn.spans import Span

STEP, LAYER = Span("step", step=9, epoch=2), Span("forward", layer="conv1")
SUM = Span("allreduce", nbytes=8)


def test_events_by_hand() -> None:
    step = slice_event(3, 1_000_003, Interval(STEP, 7, 1000, 5130))
    layer = slice_event(3, 2_000_003, Interval(LAYER, 8, 6000, 6000))
    place = {"ph": "X", "pid": 3}
    assert step == place | {
        **{"name": "step", "tid": 1_000_003, "ts": 1.0, "dur": 4.125},
        "args": {"step": 9, "epoch": 2},
    }
    assert layer == place | {"name": "conv1 forward", "tid": 2_000_003, "ts": 6.0, "dur": 0.0}


def test_processes_and_threads_are_named() -> None:
    events = name_events(3, "h", {"main": 1_000_003, "sums": 2_000_003})
    names = [(event["tid"], event["args"]["name"]) for event in events if "name" in event["args"]]
    assert names == [(3, "rank 3 (h)"), (1_000_003, "main"), (2_000_003, "sums")]


def test_waiting_ends_when_the_last_rank_arrives() -> None:
    met = [Interval(SUM, 1, 10, 30), Interval(SUM, 1, 50, 60), Interval(SUM, 1, 70, 80)]
    # Of three ranks, one recorded two sums only.
    waits = waiting(met, [[10, 50, 70], [25, 40], [12, 65, 70]])
    assert [(wait.span.labels, wait.begin, wait.end) for wait in waits] == [
        ({"rank": 1}, 10, 25),
        ({"rank": 2}, 50, 60),
    ]
    assert not waiting(met, [[10, 50, 70], [9, 40, 60]])  # the last interval waits for nobody
