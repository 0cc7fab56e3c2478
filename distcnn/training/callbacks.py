"""Callbacks: user code that is called for a run's steps and epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.training.results import RunResult


class Callback:
    """Subclass it and override the methods you need. All ranks call them with the same values,
    except for speeds. An exception in one, even on a single rank, ends the run on all ranks.

    Example:
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.losses = []
        ...     def on_step(self, step, loss):
        ...         self.losses.append(loss)
    """

    def on_prepare(self, rank: int, output: Path | None) -> None:
        """The run directory ``output`` is there, None where nothing is written. Only rank 0 should
        write files.
        """

    def on_start(self, total_steps: int, steps_taken: int) -> None:
        """The first step is about to be taken; a resumed run has taken some before."""

    def on_step(self, step: int, loss: float) -> None:
        """Step ``step`` (from 1) was taken; ``loss`` is the mean over its global batch."""

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        """``log_every`` steps are over: step, epoch, loss, learning_rate, images_per_second."""

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is over: step, epoch, train_loss, train_accuracy, images_per_second and, where
        it was evaluated, validation_loss and validation_accuracy, test_loss and test_accuracy.
        """

    def on_end(self, result: RunResult) -> None:
        """The run is over."""


class Callbacks:
    """The callbacks of a run on this rank.

    Other ranks would wait for one that raises an exception: it is kept until all can stop together.
    """

    def __init__(self, callbacks: Sequence[Callback], communicator: Communicator) -> None:
        self._callbacks, self._communicator = callbacks, communicator
        self._failure: Exception | None = None

    @property
    def problem(self) -> str | None:
        """What a callback raised on this rank, as text."""
        error = self._failure
        return f"an exception in a callback ({type(error).__name__}: {error})" if error else None

    def call(self, method: str, *arguments: object) -> None:
        """Call the method of all, unless one has failed."""
        if self._failure:
            return
        try:
            for callback in self._callbacks:
                getattr(callback, method)(*arguments)
        except Exception as error:
            if self._communicator.world_size == 1:
                raise
            self._failure = error

    def raise_together(self, when: str) -> None:
        """Raise ``TrainingError`` on all ranks if a callback failed on any. Collective."""
        for rank, problem in enumerate(self._communicator.allgather(self.problem)):
            if problem:
                raise TrainingError(
                    f"stopped by {problem} on rank {rank} {when}"
                ) from self._failure
