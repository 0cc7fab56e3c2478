"""Slices as Chrome's trace event format has them, in JSON: one process for each rank, one thread
for each of its threads.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU ("Trace
Event Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.profiling.recorder import SLICE, Counts

Slices = NDArray[np.void]
Kinds = Sequence[tuple[str, Counts]]

THREADS = ("main", "sums", "checkpoint")
"""Of a rank, in the order in which they are shown."""

MOST_RANKS = 1_000_000
"""So that no two threads of the file have one number, and none has a process's: readers may take
these for numbers of one machine.
"""

GRAIN = 125
"""Nanoseconds: an eighth of a microsecond. Readers make whole nanoseconds of the file's
microseconds, each in its own way of rounding, and drop slices that then overlap in part; eighths
need no rounding."""


def in_order(slices: Slices) -> Slices:
    """By their begin, an outer one before those within; where a part's method calls another of the
    same part, only the outer.

    Of two with the same begin and end the later is the outer one: slices are recorded as they end.
    """
    ordered = slices[np.lexsort((-np.arange(len(slices)), -slices["end"], slices["begin"]))]
    before, after = ordered[:-1], ordered[1:]
    within = (
        (after["part"] == before["part"])
        & (after["number"] == before["number"])
        & (after["begin"] < before["end"])
    )
    outer: Slices = ordered[np.concatenate([np.ones(min(1, len(ordered)), bool), ~within])]
    return outer


def meetings(kinds: Kinds, slices: Slices) -> Slices:
    """The sums over all ranks, in which each waits for the last: the same ones, in the same order,
    on all ranks.
    """
    collective = [part for part, (_, counts) in enumerate(kinds) if counts is Counts.COLLECTIVE]
    return slices[np.isin(slices["part"], collective)]


def waiting(met: Slices, begins: NDArray[np.int64], part: int) -> Slices:
    """Of each of a rank's meetings, the time until the last rank came.

    ``begins``: of all ranks, (ranks, meetings).
    """
    met = met[: begins.shape[1]]
    waits = np.zeros(len(met), SLICE)
    waits["part"], waits["number"], waits["begin"] = part, begins.argmax(axis=0), met["begin"]
    waits["end"] = np.minimum(met["end"], begins.max(axis=0))
    return waits[waits["end"] > waits["begin"]]


def slice_events(
    rank: int, thread: str, kinds: Kinds, slices: Slices, steps_an_epoch: int
) -> list[dict[str, Any]]:
    """An event for each slice, whose times are nanoseconds since the trace began."""
    events = []
    for part, number, begin, end, value in slices.tolist():
        name, counts = kinds[part]
        event = {"ph": "X", "name": name, **_place(rank, thread), "ts": _microseconds(begin)}
        event["dur"] = _microseconds(end) - event["ts"]
        if counts is Counts.STEP:
            event["args"] = {"step": number, "epoch": number // steps_an_epoch + 1} | (
                {} if math.isnan(value) else {"loss": value}
            )
        elif counts in (Counts.BUCKET, Counts.COLLECTIVE):
            event["args"] = {"bucket": number, "bytes": int(value)}
        elif counts is not Counts.NOTHING:
            event["args"] = {counts.name.lower(): number}
        events.append(event)
    return events


def name_events(rank: int, host: str, threads: Sequence[str]) -> list[dict[str, Any]]:
    """What the process of ``rank`` and its ``threads`` are called, and that they stay in order."""
    process = {"ph": "M", "pid": rank}
    return [
        process | {"name": "process_name", "args": {"name": f"rank {rank} ({host})"}},
        process | {"name": "process_sort_index", "args": {"sort_index": rank}},
        *(
            {"ph": "M", "name": "thread_name", **_place(rank, each), "args": {"name": each}}
            for each in threads
        ),
        *(
            {
                "ph": "M",
                "name": "thread_sort_index",
                **_place(rank, each),
                "args": {"sort_index": THREADS.index(each)},
            }
            for each in threads
        ),
    ]


def lines_of(events: Sequence[Mapping[str, Any]]) -> bytes:
    """The events, one to a line, as they stand in the file."""
    return ",\n".join(json.dumps(each) for each in events).encode()


def document(of_ranks: Sequence[bytes], other: Mapping[str, Any]) -> list[bytes]:
    """The file, in pieces: each rank's lines, and what is said of the whole."""
    pieces = [b'{"traceEvents": [\n']
    for number, lines in enumerate(of_ranks):
        pieces += [b",\n" if number else b"", lines]
    return [*pieces, f'\n], "displayTimeUnit": "ms", "otherData": {json.dumps(other)}}}\n'.encode()]


def _place(rank: int, thread: str) -> dict[str, int]:
    return {"pid": rank, "tid": (THREADS.index(thread) + 1) * MOST_RANKS + rank}


def _microseconds(nanoseconds: int) -> float:
    return nanoseconds // GRAIN * (GRAIN / 1000)
