"""Output of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from distcnn.errors import as_arguments
from distcnn.system import console
from distcnn.system.terminal import USUAL_COLUMNS, watched_columns
from distcnn.training.time_left import TimeLeft

PROGRESS_VARIABLE = "DISTCNN_PROGRESS"
"""``bar`` or ``lines``; default: a bar if a terminal shows the output, also through ``mpirun``,
and is not a dumb one.
"""
LEAST_COLUMNS = 20
"""A narrower terminal has no room for a bar."""
SECONDS_TO_REDRAW = 0.2


class Progress:
    """The output of rank 0, on standard output."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._time_left: TimeLeft | None = None
        self._redraw_at, self._latest = 0.0, ""

    def start(
        self, total_steps: int, steps_taken: int = 0, time_left: TimeLeft | None = None
    ) -> None:
        """The next of ``total_steps`` is about to be taken: show the bar, where there is one."""
        self._time_left = time_left
        columns = watched_columns() or 0
        can_redraw = columns >= LEAST_COLUMNS and os.environ.get("TERM") != "dumb"
        usual = "bar" if can_redraw else "lines"
        if os.environ.get(PROGRESS_VARIABLE, usual) == "bar":
            from tqdm import tqdm  # on rank 0 of a terminal alone: the others need not read it

            self._bar = tqdm(
                total=total_steps,
                initial=steps_taken,
                file=sys.stdout,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
                ncols=max(columns or USUAL_COLUMNS, LEAST_COLUMNS),
                nrows=20,
                mininterval=SECONDS_TO_REDRAW,
            )

    def say(self, *lines: str) -> None:
        """Print lines that stay."""
        self._print(lines)

    def _print(self, lines: Sequence[str]) -> None:
        if self._bar is not None:
            self._bar.clear()
        console.say(*lines)
        if self._bar is not None:
            self._bar.refresh()

    def result(self, *lines: str) -> None:
        """Print lines that are always wanted: how the run ended."""
        self._print(lines)

    def step(self, loss: float, images_per_second: float) -> None:
        """Count one more step."""
        if self._time_left:
            self._time_left.begin()
        if self._bar is not None:
            self._latest = f"loss {loss:.4f}, {images_per_second:,.0f} images/s"
            now = time.monotonic()
            if now >= self._redraw_at:
                self._redraw_at = now + SECONDS_TO_REDRAW
                left = self._time_left.text() if self._time_left else ""
                shown = f"{left}, {self._latest}" if left else self._latest
                self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(1)

    def interval(self, line: str) -> None:
        """A log interval is over: print ``line``, its loss and speed, and the time that is left,
        where there is no bar.
        """
        if self._bar is None:
            left = self._time_left.text() if self._time_left else ""
            self.say(f"{line}  {left}" if left else line)

    def close(self) -> None:
        """The run is over, successfully or not."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._latest, refresh=False)
            self._bar.close()
            self._bar = None


class NoProgress(Progress):
    """Says nothing: for all ranks but rank 0."""

    def start(self, *_: Any, **__: Any) -> None: ...

    def say(self, *lines: str) -> None: ...

    def result(self, *lines: str) -> None: ...

    def interval(self, line: str) -> None: ...


class QuietProgress(Progress):
    """Prints warnings, notices and the result."""

    def start(self, *_: Any, **__: Any) -> None: ...

    def say(self, *lines: str) -> None:
        super().say(*(line for line in lines if line.startswith(("warning", "notice"))))

    def interval(self, line: str) -> None: ...


class LoggedProgress(NoProgress):
    """Lines go to the logger "distcnn": warnings as such, all else as information."""

    def say(self, *lines: str) -> None:
        for line in map(as_arguments, lines):
            level = logging.WARNING if line.startswith("warning: ") else logging.INFO
            logging.getLogger("distcnn").log(level, line.removeprefix("warning: "))
