"""The parts of a step add up to it; time is assigned to the part that took it; no bit changes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from distcnn.distributed import Allreduce, Communicator
from distcnn.distributed.allreduce import ThreadedAllreduce
from distcnn.profiling.recorder import Interval, intervals_of
from distcnn.profiling.step_times import (
    REST,
    WAITING,
    StepTimes,
    mean_of_middle_half,
    measure_steps,
    split_steps,
    step_times,
)
from distcnn.spans import (
    ALLREDUCE,
    COLLECTIVE,
    LOCAL_SUM,
    READ_DATA,
    REDUCE,
    SHARD,
    STEP,
    UPDATE,
    WAIT_FOR_SUMS,
    WAIT_FOR_WINDOW,
    Span,
)
from distcnn.training.setup import Run
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import prepare

MS = 1_000_000
MAIN, SUMS = 1, 2


def intervals(*rows: tuple[str, int, int, int]) -> list[Interval]:
    """From rows of name, thread, begin and end in milliseconds; an outer one comes first."""
    events = [
        event
        for order, (name, thread, begin, end) in enumerate(rows)
        for event in (
            ((begin, 1, order), (Span(name), thread, begin * MS)),
            ((end, 0, -order), (None, thread, end * MS)),
        )
    ]
    return intervals_of(event for _, event in sorted(events, key=lambda pair: pair[0]))


def test_parts_by_hand_without_overlap() -> None:
    step = intervals(
        (STEP, MAIN, 0, 100),
        (SHARD, MAIN, 10, 60),
        (READ_DATA, MAIN, 12, 20),
        (WAIT_FOR_WINDOW, MAIN, 13, 18),
        (REDUCE, MAIN, 60, 90),
        (ALLREDUCE, MAIN, 61, 81),
        (COLLECTIVE, MAIN, 62, 80),
        (LOCAL_SUM, MAIN, 81, 85),
        (UPDATE, MAIN, 90, 99),
    )
    times = step_times(step, [0.012])
    parts = {name: round(seconds * 1e3, 6) for name, seconds in times.parts.items()}
    assert parts == {
        REST: 11 + 42,
        READ_DATA: 8,
        ALLREDUCE: 26 - 12,
        LOCAL_SUM: 4,
        UPDATE: 9,
        WAITING: 12,
    }
    assert times.seconds == pytest.approx(sum(times.parts.values()))
    assert times.sums_seconds == pytest.approx(0.020)


def test_with_overlap_only_waiting_on_the_main_thread_counts() -> None:
    step = intervals((STEP, MAIN, 0, 100), (ALLREDUCE, SUMS, 20, 70), (WAIT_FOR_SUMS, MAIN, 60, 70))
    times = step_times(step, [0.025])  # more than it waited at all
    assert times.parts == pytest.approx({REST: 0.09, ALLREDUCE: 0.0, WAITING: 0.01})
    assert times.sums_seconds == pytest.approx(0.05)


def test_intervals_belong_to_the_step_they_began_in() -> None:
    first, second = split_steps(
        intervals(
            (UPDATE, MAIN, 0, 1), (STEP, MAIN, 2, 5), (UPDATE, MAIN, 3, 4), (STEP, MAIN, 6, 8)
        )
    )
    assert [interval.span.name for interval in first] == [STEP, UPDATE]
    assert [interval.span.name for interval in second] == [STEP]


def test_the_mean_of_the_middle_half() -> None:
    steps = [StepTimes(seconds, {"loss": seconds / 2}, 0.0) for seconds in (100.0, 1.0, 2.0, 4.0)]
    (middle,) = mean_of_middle_half(steps, Communicator())
    assert (middle.seconds, middle.parts) == (3.0, {"loss": 1.5})


def take(run: Run, steps: int) -> list[StepTimes]:
    numbers = iter(range(steps))

    def interval() -> None:
        step = next(numbers)
        run.training_step(step, 0, step, 0.1)

    return measure_steps(interval, steps, run.communicator)


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_a_real_step_adds_up_and_no_bit_changes(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch, overlap: str, reduction: str
) -> None:
    def background_allreduce(self: Communicator) -> Allreduce:
        return ThreadedAllreduce(self.allreduce_sum)

    monkeypatch.setattr(Communicator, "background_allreduce", background_allreduce)
    plain, run = (
        prepare(image_set(), model="lenet", num_shards=3, overlap=overlap, reduction=reduction)
        for _ in range(2)
    )
    for step in range(3):
        plain.training_step(step, 0, step, 0.1)
    times = take(run, 3)
    assert run.parameters.values.tobytes() == plain.parameters.values.tobytes()
    for step_time in times:
        assert sum(step_time.parts.values()) == pytest.approx(step_time.seconds)
        layers = {"conv1 forward", "maxpool1 forward", "conv2 backward", "maxpool2 backward"}
        assert layers <= set(step_time.parts)
        assert {READ_DATA, "loss", LOCAL_SUM, ALLREDUCE, UPDATE, REST} <= set(step_time.parts)
        assert min(step_time.parts.values()) >= -1e-9


def test_time_goes_to_the_part_that_took_it(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(image_set(), num_shards=3)
    loss = run.training_step.loss

    def slow_loss(*arguments: np.ndarray) -> object:
        time.sleep(0.02)
        return loss(*arguments)

    monkeypatch.setattr(run.training_step, "loss", slow_loss)
    (times,) = take(run, 1)
    assert times.parts["loss"] >= 3 * 0.02  # of three shards
