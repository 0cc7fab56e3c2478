"""The plan of a run: its steps, their epochs and learning rates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from distcnn.config import Config
from distcnn.datasets import steps_per_epoch
from distcnn.nn import PORTABLE
from distcnn.optim import Schedule
from distcnn.registry import find_schedule


@dataclass(frozen=True)
class RunSchedule:
    """The plan of a run over ``train_examples``.

    ``schedule`` is the object in place of the one that ``config`` names; its warm-up is the
    configuration's.
    """

    config: Config
    train_examples: int
    schedule: Schedule | None = None

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass over the training set."""
        config = self.config
        return steps_per_epoch(self.train_examples, config.num_shards, config.microbatch_size)

    @property
    def scheduled_steps(self) -> int:
        """Steps of one learning-rate cycle, or of all epochs, whatever ``max_steps`` says."""
        return (self.config.cycle_epochs or self.config.epochs) * self.steps_an_epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, unless it reaches ``target_accuracy`` before."""
        steps = self.config.epochs * self.steps_an_epoch
        return min(steps, self.config.max_steps or steps)

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up, which is limited in short runs."""
        return min(self.config.warmup_steps, self.scheduled_steps // 4)

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0)."""
        steps, peak = self.scheduled_steps, self.config.learning_rate
        return self._schedule.learning_rate(step % steps, peak=peak, total_steps=steps)

    @cached_property
    def _schedule(self) -> Schedule:
        given = self.schedule or find_schedule(self.config.schedule, 0)
        made = dataclasses.replace(given, warmup_steps=self.warmup_steps)
        return made.portable() if self.config.arithmetic == PORTABLE else made

    def has_rates_of(self, other: RunSchedule) -> bool:
        """Whether each step has the learning rate that it has in ``other``, of another length."""
        same_steps = self.scheduled_steps == other.scheduled_steps
        is_constant = self.config.schedule == "constant"
        return (same_steps or is_constant) and self.warmup_steps == other.warmup_steps

    def position(self, step: int) -> tuple[int, int]:
        """The epoch (from 0) after ``step`` steps, and the steps taken in it (all at its end)."""
        epoch, step_of_epoch = divmod(step, self.steps_an_epoch)
        at_end = step > 0 and step_of_epoch == 0
        return (epoch - 1, self.steps_an_epoch) if at_end else (epoch, step_of_epoch)
