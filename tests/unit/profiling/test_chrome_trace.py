"""From slices to events."""

from __future__ import annotations

import json

import numpy as np

from distcnn.profiling.chrome_trace import (
    document,
    in_order,
    lines_of,
    meetings,
    slice_events,
    waiting,
)
from distcnn.profiling.recorder import SLICE, Counts

STEP, SHARD, MEETING, WAITING, TEST = range(5)
KINDS = [
    ("step", Counts.STEP),
    ("conv1 forward", Counts.SHARD),
    ("allreduce", Counts.COLLECTIVE),
    ("waiting", Counts.RANK),
    ("evaluation", Counts.NOTHING),
]


def slices(*rows: tuple[int, int, int, int, float]) -> np.ndarray:
    return np.array(list(rows), SLICE)


def test_outer_slices_come_first_also_where_the_clock_did_not_move() -> None:
    recorded = slices(
        (SHARD, 1, 0, 10, 0), (SHARD, 2, 10, 10, 0), (MEETING, 0, 10, 10, 8), (STEP, 7, 0, 10, 0.5)
    )
    ordered = in_order(recorded)
    assert ordered["part"].tolist() == [STEP, SHARD, MEETING, SHARD]


def test_a_part_that_calls_itself_is_one_slice_and_its_blocks_are_several() -> None:
    recorded = slices(
        (SHARD, 1, 12, 18, 0), (SHARD, 1, 10, 20, 0), (SHARD, 1, 20, 30, 0), (SHARD, 2, 31, 32, 0)
    )
    assert in_order(recorded)[["begin", "end"]].tolist() == [(10, 20), (20, 30), (31, 32)]
    assert len(in_order(slices())) == 0


def test_waiting_ends_when_the_last_rank_comes() -> None:
    met = meetings(
        KINDS,
        slices(
            (SHARD, 0, 0, 5, 0),
            (MEETING, 0, 10, 30, 8),
            (MEETING, 0, 50, 60, 8),
            (MEETING, 0, 70, 80, 8),
        ),
    )
    begins = np.array(
        [[10, 50], [25, 40], [12, 65]]
    )  # of three ranks, of which one recorded two meetings only
    waits = waiting(met, begins, WAITING)
    assert waits[["part", "number", "begin", "end"]].tolist() == [
        (WAITING, 1, 10, 25),
        (WAITING, 2, 50, 60),
    ]
    assert (
        len(waiting(met, np.array([[10, 50, 70], [9, 40, 60]]), WAITING)) == 0
    )  # the last one waits for nobody


def test_events_by_hand() -> None:
    events = slice_events(
        3,
        "main",
        KINDS,
        slices(
            (STEP, 9, 1000, 5130, 0.25), (STEP, 10, 6000, 6000, np.nan), (MEETING, 1, 7, 254, 64)
        ),
        steps_an_epoch=5,
    )
    place = {"ph": "X", "pid": 3, "tid": 1_000_003}
    assert events == [
        place
        | {"name": "step", "ts": 1.0, "dur": 4.125, "args": {"step": 9, "epoch": 2, "loss": 0.25}},
        place | {"name": "step", "ts": 6.0, "dur": 0.0, "args": {"step": 10, "epoch": 3}},
        place | {"name": "allreduce", "ts": 0.0, "dur": 0.25, "args": {"bucket": 1, "bytes": 64}},
    ]
    other, test = slice_events(
        0, "sums", KINDS, slices((WAITING, 2, 0, 125, 0), (TEST, 0, 250, 500, 0)), steps_an_epoch=5
    )
    assert (other["args"], other["tid"]) == ({"rank": 2}, 2_000_000)
    assert "args" not in test
    content = json.loads(b"".join(document([lines_of(events), lines_of([other])], {"model": "m"})))
    assert content == {
        "traceEvents": [*events, other],
        "displayTimeUnit": "ms",
        "otherData": {"model": "m"},
    }
