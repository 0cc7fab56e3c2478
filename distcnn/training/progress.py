"""What a run says while it runs: a progress bar on a terminal, plain lines elsewhere.

Only root speaks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from distcnn.system import console
from distcnn.system.terminal import USUAL_COLUMNS, watched_columns

PROGRESS_VARIABLE = "DISTCNN_PROGRESS"
"""``bar`` or ``lines``.

Without it: a bar where a terminal shows the output, also through ``mpirun``, and lines elsewhere.
"""
LEAST_COLUMNS = 20
"""A bar on a narrower terminal would say nothing."""


class Progress:
    """Root's voice, on standard output."""

    def __init__(self) -> None:
        self._total_steps = 0
        self._bar: Any = None

    def start(self, total_steps: int, steps_taken: int = 0) -> None:
        """The next of ``total_steps`` is about to be taken: show the bar, where there is one."""
        self._total_steps = total_steps
        columns = watched_columns() or 0
        usual = "bar" if columns >= LEAST_COLUMNS else "lines"
        if os.environ.get(PROGRESS_VARIABLE, usual) == "bar":
            from tqdm import (
                tqdm,
            )  # only on a terminal, on root: no rank should read its files for nothing

            width = max(columns or USUAL_COLUMNS, LEAST_COLUMNS)
            self._bar = tqdm(
                total=total_steps,
                initial=steps_taken,
                unit="step",
                file=sys.stdout,
                ncols=width,
                nrows=20,
                mininterval=0.2,
            )

    def say(self, *lines: str) -> None:
        """Lines that stay."""
        if self._bar is not None:
            self._bar.clear()
        console.say(*lines)
        if self._bar is not None:
            self._bar.refresh()

    def step(self, loss: float, images_per_second: float) -> None:
        """One more step was taken."""
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}, {images_per_second:,.0f} images/s", refresh=False
            )
            self._bar.update(1)

    def interval(
        self,
        step: int,
        epoch: int,
        epochs: int,
        loss: float,
        learning_rate: float,
        images_per_second: float,
    ) -> None:
        """A log interval is over: its mean loss and speed."""
        if self._bar is None:
            self.say(
                f"step {step}/{self._total_steps}  epoch {epoch}/{epochs}  loss {loss:.4f}  "
                f"learning rate {learning_rate:.4g}  {images_per_second:,.0f} images/s"
            )

    def close(self) -> None:
        """The run is over, well or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class NoProgress(Progress):
    """What all ranks but root have: silence."""

    def start(self, total_steps: int, steps_taken: int = 0) -> None:
        """Nothing."""

    def say(self, *lines: str) -> None:
        """Nothing."""

    def interval(
        self,
        step: int,
        epoch: int,
        epochs: int,
        loss: float,
        learning_rate: float,
        images_per_second: float,
    ) -> None:
        """Nothing."""
