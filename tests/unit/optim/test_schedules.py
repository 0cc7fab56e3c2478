"""Schedules: values at the start, in the middle and at the end, and the warm-up before them."""

from __future__ import annotations

import math

import pytest

from distcnn.optim import SCHEDULES, Cosine, Linear, OwnSchedule


@pytest.mark.parametrize(
    ("name", "progress", "factor"),
    [
        *(("constant", progress, 1.0) for progress in (0.0, 0.5, 1.0)),
        *(("linear", progress, 1 - progress) for progress in (0.0, 0.25, 0.5, 1.0)),
        *(
            ("cosine", progress, factor)
            for progress, factor in ((0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 0))
        ),
        *(("step", progress, 1.0) for progress in (0.0, 0.25, math.nextafter(0.5, 0))),
        *(("step", progress, 0.1) for progress in (0.5, math.nextafter(0.75, 0))),
        *(("step", progress, 0.01) for progress in (0.75, 0.9, 1.0)),
    ],
)
def test_factors_by_hand(name: str, progress: float, factor: float) -> None:
    for schedule in (SCHEDULES[name](), SCHEDULES[name]().portable()):
        assert schedule.factor(progress) == pytest.approx(factor, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
def test_every_schedule_starts_at_the_peak_and_never_rises(name: str, portable: bool) -> None:
    native = SCHEDULES[name](0)
    schedule = native.portable() if portable else native
    assert schedule == native
    rates = [schedule.learning_rate(step, peak=0.4, total_steps=100) for step in range(100)]
    assert {type(rate) for rate in rates} == {float}
    assert rates[0] == 0.4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [2, 2, 2, 2]),
        ("linear", [2, 1.5, 1, 0.5]),
        ("cosine", [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)]),
        ("step", [2, 2, 0.2, 0.02]),
    ],
)
def test_four_steps_without_warmup_by_hand(name: str, expected: list[float]) -> None:
    rates = [SCHEDULES[name](0).learning_rate(step, peak=2.0, total_steps=4) for step in range(4)]
    assert rates == pytest.approx(expected, rel=1e-14)


def test_warmup_is_linear_to_the_peak_and_the_schedule_takes_the_steps_that_are_left() -> None:
    rates = [
        SCHEDULES["linear"](4).learning_rate(step, peak=8.0, total_steps=8) for step in range(8)
    ]
    assert rates == [2, 4, 6, 8, 8, 6, 4, 2]


def test_a_warmup_of_one_step_begins_at_the_peak() -> None:
    rates = [
        SCHEDULES["linear"](1).learning_rate(step, peak=3.0, total_steps=4) for step in range(4)
    ]
    assert rates == pytest.approx([3, 3, 2, 1])


@pytest.mark.parametrize(
    ("warmup_steps", "expected"),
    [(4, [1, 2, 3, 4]), (8, [0.5, 1, 1.5, 2]), (400, [0.01, 0.02, 0.03, 0.04])],
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warmup_as_long_as_the_run_or_longer_never_reaches_the_schedule(
    name: str, warmup_steps: int, expected: list[float]
) -> None:
    rates = [
        SCHEDULES[name](warmup_steps).learning_rate(step, peak=4.0, total_steps=4)
        for step in range(4)
    ]
    assert rates == pytest.approx(expected, rel=1e-14)


def test_schedules_compare_and_a_users_function_is_one() -> None:
    assert Cosine(warmup_steps=10) == Cosine(10) != Linear(10)
    own = OwnSchedule(1, lambda progress: 0.5 - progress / 2)
    rates = [own.learning_rate(step, peak=8.0, total_steps=3) for step in range(3)]
    assert rates == [8, 4, 2]
