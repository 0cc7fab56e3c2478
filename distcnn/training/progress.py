"""Output of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from distcnn.errors import as_arguments
from distcnn.system import console
from distcnn.system.terminal import USUAL_COLUMNS, watched_columns

PROGRESS_VARIABLE = "DISTCNN_PROGRESS"
"""``bar`` or ``lines``; default: a bar if a terminal shows the output, also through ``mpirun``."""
LEAST_COLUMNS = 20
"""A narrower terminal has no room for a bar."""


class Progress:
    """The output of rank 0, on standard output."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, total_steps: int, steps_taken: int = 0) -> None:
        """The next of ``total_steps`` is about to be taken: show the bar, where there is one."""
        columns = watched_columns() or 0
        usual = "bar" if columns >= LEAST_COLUMNS else "lines"
        if os.environ.get(PROGRESS_VARIABLE, usual) == "bar":
            from tqdm import tqdm  # on rank 0 of a terminal alone: the others need not read it

            self._bar = tqdm(
                total=total_steps,
                initial=steps_taken,
                unit="step",
                file=sys.stdout,
                ncols=max(columns or USUAL_COLUMNS, LEAST_COLUMNS),
                nrows=20,
                mininterval=0.2,
            )

    def say(self, *lines: str) -> None:
        """Print lines that stay."""
        if self._bar is not None:
            self._bar.clear()
        console.say(*lines)
        if self._bar is not None:
            self._bar.refresh()

    def step(self, loss: float, images_per_second: float) -> None:
        """Count one more step."""
        if self._bar is not None:
            text = f"loss {loss:.4f}, {images_per_second:,.0f} images/s"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(1)

    def interval(self, line: str) -> None:
        """A log interval is over: print ``line``, its loss and speed, where there is no bar."""
        if self._bar is None:
            self.say(line)

    def close(self) -> None:
        """The run is over, successfully or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class NoProgress(Progress):
    """Says nothing: for all ranks but rank 0."""

    def start(self, total_steps: int, steps_taken: int = 0) -> None: ...

    def say(self, *lines: str) -> None: ...

    def interval(self, line: str) -> None: ...


class LoggedProgress(NoProgress):
    """Lines go to the logger "distcnn": warnings as such, all else as information."""

    def say(self, *lines: str) -> None:
        for line in map(as_arguments, lines):
            level = logging.WARNING if line.startswith("warning: ") else logging.INFO
            logging.getLogger("distcnn").log(level, line.removeprefix("warning: "))
