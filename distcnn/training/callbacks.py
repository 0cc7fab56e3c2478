"""Callbacks: code of the user's that hears of a run's steps and epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distcnn.nn import Parameters
from distcnn.training.loop import Records
from distcnn.training.progress import Progress
from distcnn.training.results import RunResult


class Callback:
    """Subclass it and define what you want to hear of. All ranks call it with the same values,
    speeds aside; what it raises ends the run.

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


class CallingRecords:
    """Passes all on to ``records``, and metrics to ``callbacks``."""

    def __init__(self, records: Records, callbacks: Sequence[Callback]) -> None:
        self._records, self._callbacks = records, callbacks

    def add_metrics(self, kind: str, **values: Any) -> None:
        self._records.add_metrics(kind, **values)
        for callback in self._callbacks:
            (callback.on_epoch if kind == "epoch" else callback.on_log)(values)

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        self._records.add_receipt(kind, step, **values)

    def finish(self, parameters: Parameters, result: RunResult) -> None:
        self._records.finish(parameters, result)


class CallingProgress(Progress):
    """Passes all on to ``progress``, and steps to ``callbacks``."""

    def __init__(self, progress: Progress, callbacks: Sequence[Callback]) -> None:
        super().__init__()
        self._progress, self._callbacks = progress, callbacks
        self._step = 0

    def say(self, *lines: str) -> None:
        self._progress.say(*lines)

    def interval(self, line: str) -> None:
        self._progress.interval(line)

    def close(self) -> None:
        self._progress.close()

    def start(self, total_steps: int, steps_taken: int = 0) -> None:
        self._progress.start(total_steps, steps_taken)
        self._step = steps_taken
        for callback in self._callbacks:
            callback.on_start(total_steps, steps_taken)

    def step(self, loss: float, images_per_second: float) -> None:
        self._progress.step(loss, images_per_second)
        self._step += 1
        for callback in self._callbacks:
            callback.on_step(self._step, loss)
