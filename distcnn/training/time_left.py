"""How much longer a run takes, from its recent speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from distcnn.system.wording import duration
from distcnn.training.setup import FORWARDS_A_STEP, Run
from distcnn.training.state import State

RECENT_SECONDS = 60.0
"""Older speeds count less and less: after this time 1/e."""
SECONDS_TO_MEASURE = 1.0
"""Nothing is estimated from less."""
TESTS_AT_THE_END = 2
"""With a validation set: of the last weights and of the best."""
MOST_SLOWER = 20.0
"""A pause, such as of a suspended job, counts as work at this part of the speed before it."""


def work_left(run: Run, state: State) -> float:
    """What is left of the run, in steps; evaluations count as the steps that take about as long."""
    schedule, every = run.schedule, run.config.eval_every_epochs
    steps, total = schedule.steps_an_epoch, schedule.total_steps
    epochs, done = -(-total // steps), state.step // steps
    if state.epoch_end_pending:
        done = -(-state.step // steps) - 1
    evaluations = epochs // every - done // every if every else 0
    if done < epochs and not (every and epochs % every == 0):
        evaluations += 1  # after the last step, in any case
    examples = evaluations * (run.validation or run.evaluation).examples
    if run.validation and done < epochs:
        examples += TESTS_AT_THE_END * run.evaluation.examples
    return total - state.step + examples / run.config.global_batch_size / FORWARDS_A_STEP


def time_left(run: Run, state: State) -> TimeLeft:
    """The estimate for a run from ``state``, which the loop updates, to its end."""
    may_end_early = bool(run.config.target_accuracy or run.config.patience)
    return TimeLeft(lambda: work_left(run, state), may_end_early)


class TimeLeft:
    """Estimates the time that is left from the work that is left, whatever takes the time: steps,
    tests, checkpoints.

    ``work`` tells how much is left, in any unit; ``clock`` the time in seconds. A run that
    ``may_end_early`` takes at most the time that is estimated.
    """

    def __init__(
        self,
        work: Callable[[], float],
        may_end_early: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._may_end_early, self._clock = work, may_end_early, clock
        self._before: tuple[float, float] | None = None
        self._seconds = self._done = 0.0
        """Recent time, and the work done in it."""

    def begin(self) -> None:
        """Begin to measure, after the first step: it is slower than the others."""
        if self._before is None:
            self._before = self._clock(), self._work()

    def seconds(self) -> float | None:
        """How long the rest will take; None before there is enough to tell from."""
        if self._before is None:
            return None
        now, left = self._clock(), self._work()
        seconds, done = now - self._before[0], self._before[1] - left
        if done > 0:
            self._before = now, left
            if self._done > 0:
                seconds = min(seconds, MOST_SLOWER * done * self._seconds / self._done)
            kept = math.exp(-seconds / RECENT_SECONDS)
            self._seconds = kept * self._seconds + seconds
            self._done = kept * self._done + done
        if self._done <= 0 or self._seconds < SECONDS_TO_MEASURE:
            return None
        return left * self._seconds / self._done

    def text(self) -> str:
        """As in "1 min 12 s left", rounded; empty while nothing is known, and at the end."""
        seconds = self.seconds() or 0.0
        unit = 1 if seconds < 120 else 10 if seconds < 600 else 60
        rounded = unit * round(seconds / unit)
        at_most = "at most " if self._may_end_early else ""
        return f"{at_most}{duration(rounded)} left" if rounded else ""
