"""``--trace``: record on every rank, then align the clocks and write one file (docs/trace.md), in
Chrome's trace event format (JSON); a rank is a process there.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
("Trace Event Format").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distcnn
from distcnn.distributed.communicator import Communicator, JointError
from distcnn.errors import Stopped, TrainingError
from distcnn.profiling.clock_sync import Clock, clocks_since, last_arrivals, measure_offsets
from distcnn.profiling.recorder import Interval, Timeline, clock, intervals_of
from distcnn.spans import ALLREDUCE, COLLECTIVE, WRITE_RESULTS, Span, listening
from distcnn.system.files import write_atomically
from distcnn.training.setup import Run

TraceEvent = dict[str, Any]

MOST_RANKS = 1_000_000
"""Readers may take thread numbers for those of one machine, so every thread of the file has its
own, different from all ranks.
"""

GRAIN = 125
"""Nanoseconds: an eighth of a microsecond, exact in binary. Readers round the file's microseconds
to whole nanoseconds in their own ways, and drop slices that then overlap in part.
"""


@contextmanager
def traced(
    run: Run, first_step: int, folder: Callable[[], str | Path], say: Callable[[str], None]
) -> Iterator[None]:
    """Trace what the run does in this context, from ``first_step``, and write it to one file in
    ``folder``. Collective.

    The file is written at the end, and also when all ranks end together earlier: stopped by a
    signal, or because training cannot continue. When one rank alone ends, all end at once and the
    trace is lost.
    """
    communicator, config = run.communicator, run.config
    start = max(first_step, config.trace_from)
    timeline = Timeline(range(start, start + config.trace), communicator.world_size)
    origin = communicator.broadcast(clock())
    before = measure_offsets(communicator)

    def write() -> None:
        with Span(WRITE_RESULTS):
            clocks = clocks_since(before, communicator)
            lines = communicator.gather(rank_lines(communicator, timeline, clocks, origin))
            full = communicator.gather(timeline.is_full)
            if lines is not None and full is not None:
                path = Path(folder()) / f"trace-{first_step:09d}.json"
                _write(path, lines, _facts(run, timeline, clocks, full), say)

    try:
        with listening(timeline):
            yield
    except (JointError, TrainingError, Stopped):
        write()
        raise
    write()


def _write(
    path: Path, lines: Sequence[bytes], facts: dict[str, Any], say: Callable[[str], None]
) -> None:
    """A file that cannot be written (disk full) is only reported."""
    pieces = [piece for of_rank in lines for piece in (b",\n", of_rank)][1:]
    end = f'\n], "displayTimeUnit": "ms", "otherData": {json.dumps(facts)}}}\n'
    try:
        write_atomically(path, b'{"traceEvents": [\n', *pieces, end.encode(), sync=False)
    except OSError as error:
        say(f"warning: {path} cannot be written ({error.strerror}): the trace is lost")
        return
    first, stop = facts["steps"]
    steps = f"steps {first} to {stop - 1} in full" if stop > first else "no step in full"
    size = path.stat().st_size / 1e6
    say(f"trace in {path} ({size:.1f} MB), {steps}: open it at https://ui.perfetto.dev")
    if facts["ranks_without_room"]:
        ranks = ", ".join(map(str, facts["ranks_without_room"]))
        say(f"warning: the trace is incomplete: no room for more slices on rank {ranks}")


def rank_lines(
    communicator: Communicator, timeline: Timeline, clocks: Sequence[Clock], origin: int
) -> bytes:
    """This rank's events, one to a line, in time since ``origin`` of rank 0's clock. Collective."""
    rank = communicator.rank
    recorded = intervals_of(timeline.events)
    begins = clocks[rank].to_root([interval.begin for interval in recorded])
    ends = clocks[rank].to_root([interval.end for interval in recorded])
    for interval, begin, end in zip(recorded, begins, ends, strict=True):
        interval.begin, interval.end = begin - origin, end - origin
    recorded.sort(key=lambda interval: interval.begin)
    sums = [interval for interval in recorded if interval.span.name == ALLREDUCE]
    recorded += waiting(sums, communicator.allgather([interval.begin for interval in sums]))
    recorded.sort(key=lambda interval: interval.begin)  # a wait comes right after its sum

    names = {timeline.thread_names[interval.thread] for interval in recorded}
    order = sorted(names, key=lambda name: (name != "main", name))
    threads = {name: (index + 1) * MOST_RANKS + rank for index, name in enumerate(order)}
    events = name_events(rank, communicator.hosts[rank], threads)
    for interval in recorded:
        if interval.span.name != COLLECTIVE:
            thread = threads[timeline.thread_names[interval.thread]]
            events.append(slice_event(rank, thread, interval))
    return ",\n".join(json.dumps(event, default=str) for event in events).encode()


def waiting(sums: Sequence[Interval], everyone: Sequence[Sequence[int]]) -> list[Interval]:
    """For each sum in which this rank waited, the time until the last rank arrived, labelled with
    that rank. ``everyone`` has the beginnings of all ranks' sums.
    """
    waits = []
    for interval, (when, rank) in zip(sums, last_arrivals(everyone), strict=False):
        begin, end = interval.begin, min(interval.end, when)
        if end > begin:
            waits.append(Interval(Span("waiting", rank=rank), interval.thread, begin, end))
    return waits


def slice_event(rank: int, thread: int, found: Interval) -> TraceEvent:
    """The event of an interval; its arguments are the span's labels, without the layer."""
    begin, end = (time // GRAIN * (GRAIN / 1000) for time in (found.begin, found.end))
    labels = {key: value for key, value in found.span.labels.items() if key != "layer"}
    event = {"ph": "X", "name": found.title, "pid": rank, "tid": thread}
    return {**event, "ts": begin, "dur": end - begin, **({"args": labels} if labels else {})}


def name_events(rank: int, host: str, threads: Mapping[str, int]) -> list[TraceEvent]:
    """The names of the process of ``rank`` and of its ``threads``, and their order."""
    named = [("process", rank, f"rank {rank} ({host})", rank)]
    named += [("thread", number, name, number) for name, number in threads.items()]
    return [
        {"ph": "M", "name": f"{what}_{key}", "pid": rank, "tid": number, "args": {key: value}}
        for what, number, name, index in named
        for key, value in {"name": name, "sort_index": index}.items()
    ]


def _facts(
    run: Run, timeline: Timeline, clocks: Sequence[Clock], full: Sequence[bool]
) -> dict[str, Any]:
    """The file's metadata."""
    return {
        "distcnn": distcnn.__version__,
        "model": run.config.model,
        "world_size": run.communicator.world_size,
        "steps": [timeline.recorded.start, timeline.recorded.stop],
        "ranks_without_room": [rank for rank, is_full in enumerate(full) if is_full],
        "clocks": [
            {
                "rank": rank,
                "ahead_of_rank_0_ns": [0, 0] if own.same else [own.begin.middle, own.end.middle],
                "error_ns": own.error,
                "measured_ns": [[found.low, found.high] for found in (own.begin, own.end)],
            }
            for rank, own in enumerate(clocks)
        ],
    }
