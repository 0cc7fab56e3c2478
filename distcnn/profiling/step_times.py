"""The time of each part of a step, from its spans: for the benchmark and for scaling.

A part is a span's name, with its layer if it has one: ``conv1 backward``, ``update``. Its seconds
are exclusive (without those of spans within it), so the parts of a step add up to the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from distcnn import spans
from distcnn.distributed import Communicator
from distcnn.profiling.clock_sync import clocks_since, last_arrivals, measure_offsets
from distcnn.profiling.recorder import Interval, Recorder, intervals_of
from distcnn.spans import ALLREDUCE

WAITING, REST = "waiting", "rest"
"""Parts that are not spans: until the last rank arrives at a sum; and what no inner span covers."""

COUNTS_AS = dict.fromkeys((spans.STEP, spans.SHARD), REST)
COUNTS_AS |= dict.fromkeys((spans.REDUCE, spans.WAIT_FOR_SUMS), ALLREDUCE)
"""Spans whose exclusive time is another part's."""

DETAILS = {spans.COLLECTIVE, spans.WAIT_FOR_WINDOW}
"""Spans that count as part of the one around them."""

MEETINGS = {ALLREDUCE, spans.WAIT_FOR_SUMS}
"""Spans of the main thread that no rank leaves before all ranks have entered them."""


@dataclass(frozen=True)
class StepTimes:
    """One step of one rank, or the mean of several."""

    seconds: float
    parts: dict[str, float]
    """Seconds of the main thread by part; they add up to ``seconds``."""
    sums_seconds: float
    """In sums over all ranks, on whichever thread."""


def measure_steps(
    take: Callable[[], object], count: int, communicator: Communicator
) -> list[StepTimes]:
    """Time ``count`` calls of ``take``, each of which takes one training step. Collective.

    Comparing the ranks' clocks separates waiting for the last rank from summing. No barrier is
    added, so the steps are the same as without a listener.
    """
    recorder = Recorder()
    before = measure_offsets(communicator)
    with spans.listening(recorder):
        for _ in range(count):
            take()
    clocks = clocks_since(before, communicator)
    steps = split_steps(intervals_of(recorder.events))
    met = [meeting for step in steps for meeting in meetings(step)]
    own = clocks[communicator.rank].to_root([meeting.begin for meeting in met])
    lasts = last_arrivals(communicator.allgather(own))
    ahead = iter((last - begin) / 1e9 for begin, (last, _) in zip(own, lasts, strict=True))
    return [step_times(step, [next(ahead) for _ in meetings(step)]) for step in steps]


def split_steps(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """For each step, the intervals of all threads that began in it; the step's own comes first."""
    steps: list[list[Interval]] = []
    for interval in intervals:
        if interval.span.name == spans.STEP:
            steps.append([interval])
        elif steps and interval.begin < steps[-1][0].end:
            steps[-1].append(interval)
    return steps


def meetings(step: Sequence[Interval]) -> list[Interval]:
    """Where the main thread meets all ranks in a step."""
    on_main = (interval for interval in step if interval.thread == step[0].thread)
    return [interval for interval in on_main if interval.span.name in MEETINGS]


def step_times(step: Sequence[Interval], ahead: Sequence[float]) -> StepTimes:
    """The times of one step, whose own interval comes first.

    ``ahead``: for each meeting, how many seconds this rank was there before the last one.
    """
    parts: defaultdict[str, float] = defaultdict(float)
    for interval in step:
        if interval.thread == step[0].thread:
            parts[part_of(interval)] += interval.exclusive / 1e9
    for meeting, seconds in zip(meetings(step), ahead, strict=True):
        waited = min(seconds, meeting.nanoseconds / 1e9)
        parts[ALLREDUCE] -= waited
        parts[WAITING] += waited
    sums = sum(interval.nanoseconds for interval in step if interval.span.name == ALLREDUCE)
    return StepTimes(step[0].nanoseconds / 1e9, dict(parts), sums / 1e9)


def part_of(interval: Interval) -> str:
    """The part that an interval's exclusive time belongs to."""
    while interval.span.name in DETAILS and interval.parent is not None:
        interval = interval.parent
    return COUNTS_AS.get(interval.span.name) or interval.title


def mean_of_middle_half(times: Sequence[StepTimes], communicator: Communicator) -> list[StepTimes]:
    """Each rank's mean step over the middle half of its ``times`` by duration, the same steps on
    all ranks. Collective.

    It is as robust as a median, and its parts add up: they are of the same steps.
    """
    everyone = communicator.allgather([step.seconds for step in times])
    seconds = [fmean(of_step) for of_step in zip(*everyone, strict=True)]
    ordered = sorted(range(len(seconds)), key=seconds.__getitem__)
    quarter = len(ordered) // 4
    middle = [times[index] for index in ordered[quarter : len(ordered) - quarter]]
    names = dict.fromkeys(name for step in middle for name in step.parts)
    mean = StepTimes(
        fmean(step.seconds for step in middle),
        {name: fmean(step.parts.get(name, 0.0) for step in middle) for name in names},
        fmean(step.sums_seconds for step in middle),
    )
    return communicator.allgather(mean)
