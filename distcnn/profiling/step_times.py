"""The time of each part of a step, from its spans: for the benchmark and for scaling.

A part is a span's name, with its layer if it has one: ``conv1 backward``, ``update``. Its seconds
are exclusive (without those of spans within it), so the parts of a step add up to the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distcnn.distributed import Communicator
from distcnn.profiling.clock_sync import clocks_of, last_arrivals, measure_offsets
from distcnn.profiling.recorder import Interval, Recorder, intervals_of, title
from distcnn.spans import (
    ALLREDUCE,
    COLLECTIVE,
    REDUCE,
    SHARD,
    STEP,
    WAIT_FOR_SUMS,
    WAIT_FOR_WINDOW,
    listening,
)

WAITING, REST = "waiting", "rest"
"""Parts that are no span: until the last rank arrives at a sum; and what no inner span covers."""

COUNTS_AS = {STEP: REST, SHARD: REST, REDUCE: ALLREDUCE, WAIT_FOR_SUMS: ALLREDUCE}
"""Spans whose exclusive time is another part's."""

DETAILS = {COLLECTIVE, WAIT_FOR_WINDOW}
"""Spans that count as part of the one around them."""

MEETINGS = {ALLREDUCE, WAIT_FOR_SUMS}
"""Spans of the main thread that no rank leaves before all ranks have entered them."""

Seconds = dict[str, float]


@dataclass(frozen=True)
class StepTimes:
    """One step of one rank, or the mean of several.

    Args:
        seconds: from begin to end.
        parts: seconds of the main thread by part; they add up to ``seconds``.
        sums_seconds: in sums over all ranks, on whichever thread.
        message_bytes: the size of each vector that was summed over all ranks, in order.
    """

    seconds: float
    parts: Seconds
    sums_seconds: float
    message_bytes: list[int] = field(default_factory=list)


def measure_steps(
    take: Callable[[], object], count: int, communicator: Communicator
) -> list[StepTimes]:
    """Time ``count`` calls of ``take``, each of which takes one training step. Collective.

    Comparing the ranks' clocks separates waiting for the last rank from summing. No barrier is
    added, so the steps are the same as without a listener.
    """
    recorder = Recorder()
    before = measure_offsets(communicator)
    with listening(recorder):
        for _ in range(count):
            take()
    clocks = clocks_of(communicator.hosts, before, measure_offsets(communicator))
    steps = split_steps(intervals_of(recorder.events))
    met = [meetings(step) for step in steps]
    begins = np.array([interval.begin for of_step in met for interval in of_step], np.int64)
    own = clocks[communicator.rank].to_root(begins).tolist()
    lasts = last_arrivals(communicator.allgather(own))
    waits = iter((when - begin) / 1e9 for begin, (when, _) in zip(own, lasts, strict=True))
    return [
        step_times(step, [next(waits) for _ in of_step])
        for step, of_step in zip(steps, met, strict=True)
    ]


def split_steps(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """For each step, the intervals of all threads that began in it; the step's own comes first."""
    steps: list[list[Interval]] = []
    for interval in intervals:
        if interval.span.name == STEP:
            steps.append([interval])
        elif steps and interval.begin < steps[-1][0].end:
            steps[-1].append(interval)
    return steps


def meetings(step: Sequence[Interval]) -> list[Interval]:
    """Where the main thread meets all ranks in a step."""
    return [
        interval
        for interval in step
        if interval.thread == step[0].thread and interval.span.name in MEETINGS
    ]


def step_times(intervals: Sequence[Interval], waits: Sequence[float] = ()) -> StepTimes:
    """The times of one step.

    Args:
        intervals: the step's own, then all others of the step.
        waits: for each meeting, how long this rank was ahead of the last one, in seconds.
    """
    step = intervals[0]
    parts: defaultdict[str, float] = defaultdict(float)
    for interval in intervals:
        if interval.thread == step.thread:
            parts[part_of(interval)] += interval.exclusive / 1e9
    for interval, ahead in zip(meetings(intervals), waits, strict=bool(waits)):
        waited = min(ahead, interval.nanoseconds / 1e9)
        parts[ALLREDUCE] -= waited
        parts[WAITING] += waited
    sums = [interval for interval in intervals if interval.span.name == ALLREDUCE]
    return StepTimes(
        seconds=step.nanoseconds / 1e9,
        parts=dict(parts),
        sums_seconds=sum(interval.nanoseconds for interval in sums) / 1e9,
        message_bytes=[int(str(interval.span.labels.get("nbytes", 0))) for interval in sums],
    )


def part_of(interval: Interval) -> str:
    """The part that an interval's exclusive time belongs to."""
    while interval.span.name in DETAILS and interval.parent is not None:
        interval = interval.parent
    return COUNTS_AS.get(interval.span.name) or title(interval.span)


def mean(steps: Sequence[StepTimes]) -> StepTimes:
    """The mean of ``steps``."""
    names = dict.fromkeys(name for step in steps for name in step.parts)
    count = len(steps)
    return StepTimes(
        sum(step.seconds for step in steps) / count,
        {name: sum(step.parts.get(name, 0.0) for step in steps) / count for name in names},
        sum(step.sums_seconds for step in steps) / count,
        steps[0].message_bytes,
    )


def middle_half(seconds: Sequence[float]) -> list[int]:
    """The indices of ``seconds`` without the shortest and the longest quarter.

    A mean over these is as robust as a median, and its parts add up: they are of the same steps.
    """
    ordered = sorted(range(len(seconds)), key=seconds.__getitem__)
    return ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]
