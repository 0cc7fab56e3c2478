"""Tracing a run: record on every rank, then align the clocks and write one file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import distcnn
from distcnn.distributed.communicator import Communicator, JointError
from distcnn.errors import Stopped, TrainingError
from distcnn.profiling import chrome_trace
from distcnn.profiling.clock_sync import Clock, clocks_of, last_arrivals, measure_offsets
from distcnn.profiling.recorder import Interval, clock, intervals_of
from distcnn.profiling.timeline import Timeline
from distcnn.spans import ALLREDUCE, COLLECTIVE, WRITE_RESULTS, Span, listening
from distcnn.system.files import write_atomically
from distcnn.training.setup import Run


@contextmanager
def traced(
    run: Run, first_step: int, folder: Callable[[], str | Path], say: Callable[[str], None]
) -> Iterator[None]:
    """Trace what the run does in this context, and write it to one file. Collective.

    The file is written at the end, and also when all ranks end together earlier: stopped by a
    signal, or because training cannot continue. When one rank alone ends, all end at once and the
    trace is lost. If the file cannot be written (disk full), that is only reported.

    Args:
        run: the run.
        first_step: the step at which this start began; it names the file.
        folder: the run directory at the end, on root.
        say: takes lines for the user, on root.
    """
    communicator, config = run.communicator, run.config
    start = max(first_step, config.trace_from)
    timeline = Timeline(range(start, start + config.trace), communicator.world_size)
    origin = communicator.broadcast(clock())
    before = measure_offsets(communicator)

    def write() -> None:
        with Span(WRITE_RESULTS):
            clocks = clocks_of(communicator.hosts, before, measure_offsets(communicator))
            lines = communicator.gather(rank_lines(communicator, timeline, clocks, origin))
            full = communicator.gather(timeline.is_full)
            if lines is not None and full is not None:
                path = Path(folder()) / f"trace-{first_step:09d}.json"
                _write(path, lines, facts_of(run, timeline, clocks, full), say)

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
    try:
        write_atomically(path, *chrome_trace.document(lines, facts), sync=False)
    except OSError as error:
        say(f"warning: {path} cannot be written ({error.strerror}): the trace is lost")
        return
    first, end = facts["steps"]
    steps = f"steps {first} to {end - 1} in full" if end > first else "no step in full"
    size = path.stat().st_size / 1e6
    say(f"trace in {path} ({size:.1f} MB), {steps}: open it at https://ui.perfetto.dev")
    if facts["ranks_without_room"]:
        ranks = ", ".join(map(str, facts["ranks_without_room"]))
        say(f"warning: the trace is incomplete: no room for more slices on rank {ranks}")


def rank_lines(
    communicator: Communicator, timeline: Timeline, clocks: Sequence[Clock], origin: int
) -> bytes:
    """This rank's part of the file. Collective."""
    rank = communicator.rank
    threads: defaultdict[str, list[Interval]] = defaultdict(list)
    for interval in in_root_time(intervals_of(timeline.events), clocks[rank], origin):
        is_main = interval.thread == timeline.main
        threads["main" if is_main else timeline.thread_names[interval.thread]].append(interval)
    names = sorted(threads, key=lambda name: (name != "main", name))
    events = chrome_trace.name_events(rank, communicator.hosts[rank], names)
    everything = [interval for name in names for interval in threads[name]]
    sums = [interval for interval in everything if interval.span.name == ALLREDUCE]
    sums.sort(key=lambda interval: interval.begin)
    waits = waiting(sums, communicator.allgather([interval.begin for interval in sums]))
    for index, name in enumerate(names):
        for interval in threads[name]:
            if interval.span.name != COLLECTIVE:
                events.append(chrome_trace.slice_event(rank, index, interval))
            if id(interval) in waits:  # it is inside this interval, and begins with it
                events.append(chrome_trace.slice_event(rank, index, waits[id(interval)]))
    return chrome_trace.lines_of(events)


def in_root_time(intervals: Sequence[Interval], own: Clock, origin: int) -> list[Interval]:
    """``intervals`` with times in nanoseconds of rank 0's clock since ``origin``."""
    begins = own.to_root(np.array([interval.begin for interval in intervals], np.int64)) - origin
    ends = own.to_root(np.array([interval.end for interval in intervals], np.int64)) - origin
    return [
        Interval(interval.span, interval.thread, begin, end)
        for interval, begin, end in zip(intervals, begins.tolist(), ends.tolist(), strict=True)
    ]


def waiting(sums: Sequence[Interval], everyone: Sequence[Sequence[int]]) -> dict[int, Interval]:
    """For each sum in which this rank waited, the time until the last rank arrived.

    Args:
        sums: this rank's sums over all ranks, in order.
        everyone: when each rank arrived at its sums, in nanoseconds of one clock.

    Returns:
        By the ``id`` of the sum, an interval labelled with the rank that came last.
    """
    waits = {}
    for interval, (when, rank) in zip(sums, last_arrivals(everyone), strict=False):
        begin, end = interval.begin, min(interval.end, when)
        if end > begin:
            waits[id(interval)] = Interval(Span("waiting", rank=rank), interval.thread, begin, end)
    return waits


def facts_of(
    run: Run, timeline: Timeline, clocks: Sequence[Clock], full: Sequence[bool]
) -> dict[str, Any]:
    """The file's metadata of the whole trace."""
    return {
        "distcnn": distcnn.__version__,
        "model": run.config.model,
        "world_size": run.communicator.world_size,
        "steps": [timeline.recorded.start, timeline.recorded.stop],
        "ranks_without_room": [rank for rank, is_full in enumerate(full) if is_full],
        "clocks": [clock_facts(rank, own) for rank, own in enumerate(clocks)],
    }


def clock_facts(rank: int, own: Clock) -> dict[str, Any]:
    """The file's metadata of a rank's clock, in nanoseconds."""
    ends = own.begin, own.end
    return {
        "rank": rank,
        "ahead_of_rank_0_ns": [0 if own.same else end.middle for end in ends],
        "error_ns": own.error,
        "measured_ns": [[end.low, end.high] for end in ends],
    }
