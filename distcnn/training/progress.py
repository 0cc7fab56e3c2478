"""What a run says while it runs: a progress bar on a terminal, plain lines elsewhere. Only root speaks."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

PROGRESS_VARIABLE = "DISTCNN_PROGRESS"
"""``bar`` or ``lines``, where the output itself does not tell (a launcher stands between it and the terminal)."""


class Progress:
    """Root's voice, on standard output. ``total_steps`` are those of the whole run."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        wish = os.environ.get(PROGRESS_VARIABLE, "bar" if sys.stdout.isatty() else "lines")
        width = int(os.environ.get("COLUMNS") or 0) or None
        self._bar: Any = tqdm(total=total_steps, unit="step", file=sys.stdout, ncols=width, mininterval=0.2) if wish == "bar" else None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def step(self, loss: float, images_per_second: float) -> None:
        """One more step was taken."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {images_per_second:,.0f} images/s", refresh=False)
            self._bar.update(1)

    def interval(self, step: int, epoch: int, epochs: int, loss: float, learning_rate: float, images_per_second: float) -> None:
        """A log interval is over: its mean loss and speed."""
        if self._bar is None:
            self.say(
                f"step {step}/{self.total_steps}  epoch {epoch}/{epochs}  loss {loss:.4f}  "
                f"learning rate {learning_rate:.4g}  {images_per_second:,.0f} images/s"
            )

    def close(self) -> None:
        """The run is over, well or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class NoProgress(Progress):
    """What all ranks but root have: silence."""

    def __init__(self) -> None:
        self._bar = None

    def say(self, text: str) -> None:
        """Nothing."""

    def interval(self, step: int, epoch: int, epochs: int, loss: float, learning_rate: float, images_per_second: float) -> None:
        """Nothing."""
