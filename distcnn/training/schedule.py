"""The plan of a run: how many steps, which epoch a step lies in, at which learning rate.

Pure functions of configuration and set.
"""

from __future__ import annotations

from dataclasses import dataclass

from distcnn.config import Config
from distcnn.datasets import steps_per_epoch
from distcnn.optim import SCHEDULES, learning_rate_at


@dataclass(frozen=True)
class Plan:
    """What ``config`` makes of ``train_examples``."""

    config: Config
    train_examples: int

    @property
    def steps_an_epoch(self) -> int:
        """How many steps one pass over the training set takes."""
        return steps_per_epoch(
            self.train_examples, self.config.num_shards, self.config.microbatch_size
        )

    @property
    def scheduled_steps(self) -> int:
        """Over how many steps the schedule is laid out before it begins again: one cycle, else all
        epochs, whatever ``max_steps`` says.
        """
        return (self.config.cycle_epochs or self.config.epochs) * self.steps_an_epoch

    @property
    def total_steps(self) -> int:
        """How many steps the run takes from its beginning to its end, unless it reaches
        ``target_accuracy`` before.
        """
        steps = self.config.epochs * self.steps_an_epoch
        return min(steps, self.config.max_steps or steps)

    @property
    def warmup_steps(self) -> int:
        """How long the warm-up takes: in a short run not the whole of it."""
        return min(self.config.warmup_steps, self.scheduled_steps // 4)

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0)."""
        schedule = SCHEDULES[self.config.schedule]
        step_of_cycle = step % self.scheduled_steps
        return learning_rate_at(
            step_of_cycle,
            schedule,
            peak=self.config.learning_rate,
            warmup_steps=self.warmup_steps,
            total_steps=self.scheduled_steps,
        )

    def has_rates_of(self, other: Plan) -> bool:
        """Whether each step has the learning rate that it has in ``other``, a plan of the same run
        with another length.
        """
        same_schedule = (
            self.scheduled_steps == other.scheduled_steps or self.config.schedule == "constant"
        )
        return same_schedule and self.warmup_steps == other.warmup_steps

    def position(self, step: int) -> tuple[int, int]:
        """After ``step`` steps: the epoch (from 0) and how many of its steps were taken, all of
        them at its end until the next begins.
        """
        epoch, step_of_epoch = divmod(step, self.steps_an_epoch)
        return (
            (epoch - 1, self.steps_an_epoch)
            if step and not step_of_epoch
            else (epoch, step_of_epoch)
        )

    def ends_epoch(self, step: int) -> bool:
        """Whether the state after ``step`` steps is at an epoch's end, or at the run's."""
        return step % self.steps_an_epoch == 0 or step == self.total_steps
