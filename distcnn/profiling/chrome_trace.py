"""Intervals as slices in Chrome's trace event format (JSON): a rank is a process there.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
("Trace Event Format").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distcnn.profiling.recorder import Interval

TraceEvent = dict[str, Any]

MOST_RANKS = 1_000_000
"""Readers may take thread numbers for those of one machine, so every thread of the file has its
own, different from all ranks.
"""

GRAIN = 125
"""Nanoseconds: an eighth of a microsecond, exact in binary. Readers round the file's microseconds
to whole nanoseconds in their own ways, and drop slices that then overlap in part.
"""


def slice_event(rank: int, thread: int, found: Interval) -> TraceEvent:
    """The event of an interval; its arguments are the span's labels, without the layer."""
    begin, end = (time // GRAIN * (GRAIN / 1000) for time in (found.begin, found.end))
    labels = {key: value for key, value in found.span.labels.items() if key != "layer"}
    return {
        "ph": "X",
        "name": found.title,
        "pid": rank,
        "tid": thread_number(rank, thread),
        "ts": begin,
        "dur": end - begin,
        **({"args": labels} if labels else {}),
    }


def name_events(rank: int, host: str, threads: Sequence[str]) -> list[TraceEvent]:
    """The names of the process of ``rank`` and of its ``threads``, and their order."""
    named = [("process", rank, f"rank {rank} ({host})", rank)]
    for index, name in enumerate(threads):
        named.append(("thread", thread_number(rank, index), name, index))
    return [
        {"ph": "M", "name": f"{what}_{key}", "pid": rank, "tid": number, "args": {key: value}}
        for what, number, name, index in named
        for key, value in {"name": name, "sort_index": index}.items()
    ]


def lines_of(events: Iterable[TraceEvent]) -> bytes:
    """The events as they are in the file, one to a line."""
    return ",\n".join(json.dumps(event, default=str) for event in events).encode()


def document(of_ranks: Sequence[bytes], other: Mapping[str, Any]) -> list[bytes]:
    """The file, in pieces: each rank's lines, then ``other`` (Chrome ignores ``otherData``)."""
    pieces = [piece for lines in of_ranks for piece in (b",\n", lines)][1:]
    end = f'\n], "displayTimeUnit": "ms", "otherData": {json.dumps(other)}}}\n'
    return [b'{"traceEvents": [\n', *pieces, end.encode()]


def thread_number(rank: int, thread: int) -> int:
    """Of a rank's thread, counted from 0."""
    return (thread + 1) * MOST_RANKS + rank
