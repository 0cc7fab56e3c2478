"""Callbacks: user code that is called for a run's steps and epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distcnn.training.results import RunResult


class Callback:
    """Subclass it and override the methods you need. All ranks call them with the same values,
    except for speeds; an exception in one ends the run.

    Example:
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.losses = []
        ...     def on_step(self, step, loss):
        ...         self.losses.append(loss)
    """

    def on_start(self, total_steps: int, steps_taken: int) -> None:
        """The first step is about to be taken; a resumed run has taken some before."""

    def on_step(self, step: int, loss: float) -> None:
        """Step ``step`` (from 1) was taken; ``loss`` is the mean over its global batch."""

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        """``log_every`` steps are over: step, epoch, loss, learning_rate, images_per_second."""

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is over: step, epoch, train_loss, train_accuracy, images_per_second and, where
        it was tested, test_loss and test_accuracy.
        """

    def on_end(self, result: RunResult) -> None:
        """The run is over."""
