"""``--trace``: record on every rank, then align the clocks and write one file (docs/trace.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distcnn
from distcnn.distributed.communicator import Communicator, JointError
from distcnn.errors import Stopped, TrainingError
from distcnn.profiling import chrome_trace
from distcnn.profiling.clock_sync import Clock, clocks_of, last_arrivals, measure_offsets
from distcnn.profiling.recorder import Interval, Timeline, clock, intervals_of
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
    """This rank's part of the file, in nanoseconds of rank 0's clock since ``origin``.
    Collective.
    """
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
    events = chrome_trace.name_events(rank, communicator.hosts[rank], order)
    for interval in recorded:
        if interval.span.name != COLLECTIVE:
            thread = order.index(timeline.thread_names[interval.thread])
            events.append(chrome_trace.slice_event(rank, thread, interval))
    return chrome_trace.lines_of(events)


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
