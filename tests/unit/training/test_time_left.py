"""The time that is left follows the recent speed, and is never nonsense."""

from __future__ import annotations

import pytest

from distcnn.training.setup import FORWARDS_A_STEP
from distcnn.training.state import State
from distcnn.training.time_left import TimeLeft, work_left
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import loop_of, prepare


class Story:
    """A run of ``left`` steps, on a clock of its own."""

    def __init__(self, left: float, may_end_early: bool = False) -> None:
        self.left, self.now = left, 1000.0
        self.estimate = TimeLeft(lambda: self.left, may_end_early, lambda: self.now)

    def take(self, steps: int, seconds: float) -> None:
        """Take ``steps`` of ``seconds`` each, looking after each, as a progress bar does."""
        for _ in range(steps):
            self.left -= 1
            self.now += seconds
            self.estimate.begin()
            self.estimate.text()


def test_nothing_is_said_before_there_is_something_to_tell_from() -> None:
    story = Story(100)
    assert story.estimate.text() == ""
    story.take(1, seconds=30)  # the first step, of a cold machine
    assert story.estimate.text() == ""
    story.take(9, seconds=0.1)
    assert story.estimate.text() == ""
    story.take(1, seconds=0.2)
    assert story.estimate.text() == "10 s left"


def test_a_steady_run_counts_down_to_nothing() -> None:
    story = Story(1000)
    said = []
    while story.left:
        story.take(100, seconds=0.1)
        said.append(story.estimate.text())
    assert said == [
        *("1 min 30 s left", "1 min 20 s left", "1 min 10 s left", "1 min left"),
        *("50 s left", "40 s left", "30 s left", "20 s left", "10 s left", ""),
    ]


def test_it_follows_a_change_of_speed_within_minutes() -> None:
    story = Story(100_000)
    story.take(1000, seconds=0.1)
    story.take(1000, seconds=0.3)
    assert story.estimate.seconds() == pytest.approx(story.left * 0.3, rel=0.05)


def test_a_suspended_job_does_not_have_days_left() -> None:
    story = Story(1000)
    story.take(500, seconds=0.1)
    before = story.estimate.seconds()
    assert before is not None
    story.take(1, seconds=36_000)
    after = story.estimate.seconds()
    assert after is not None
    assert before < after < 1.5 * before


def test_waiting_without_a_step_changes_nothing() -> None:
    story = Story(1000)
    story.take(100, seconds=0.1)
    before = story.estimate.seconds()
    story.now += 0.5
    assert story.estimate.seconds() == before


def test_it_is_rounded_and_an_upper_bound_where_the_run_may_end_early() -> None:
    story = Story(10_000, may_end_early=True)
    story.take(107, seconds=1)
    assert story.estimate.text() == "at most 2 h 45 min left"


@pytest.mark.parametrize(
    ("flags", "state", "steps", "tests"),
    [
        # 4 steps an epoch
        ({}, State(step=0), 8, 2),
        ({}, State(step=3), 5, 2),
        ({}, State(step=4, epoch_end_pending=True), 4, 2),
        ({}, State(step=4), 4, 1),
        ({}, State(step=8, epoch_end_pending=True), 0, 1),
        ({"eval_every_epochs": 0}, State(step=1), 7, 1),
        ({"eval_every_epochs": 2, "epochs": 5}, State(step=8), 12, 2),
        ({"max_steps": 6}, State(step=4), 2, 1),
        ({"max_steps": 6}, State(step=6, epoch_end_pending=True), 0, 1),
    ],
)
def test_the_work_that_is_left_includes_tests(
    flags: dict[str, int], state: State, steps: int, tests: int, image_set: MakeImageSet
) -> None:
    run = prepare(image_set(), **flags)
    steps_a_test = 77 / 64 / FORWARDS_A_STEP
    assert work_left(run, state) == pytest.approx(steps + tests * steps_a_test)


def test_with_a_validation_set_the_test_set_comes_once_more_at_the_end(
    image_set: MakeImageSet,
) -> None:
    run = prepare(image_set(), validation=24.0)  # 179 examples are left: 3 steps an epoch
    examples = {0: 2 * 24 + 2 * 77, 3: 24 + 2 * 77, 6: 0}
    for step, left in examples.items():
        steps = 6 - step + left / 64 / FORWARDS_A_STEP
        assert work_left(run, State(step=step)) == pytest.approx(steps)


def test_the_work_shrinks_with_every_step_and_test(image_set: MakeImageSet) -> None:
    loop = loop_of(prepare(image_set()))
    left = [work_left(loop.run, loop.state)]
    for step in range(1, 9):
        for end_epoch in (False, True):
            loop.go_to(step, end_epoch)
            left.append(work_left(loop.run, loop.state))
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
