"""Compares a run's records, line by line, with those of a replay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint
from distcnn.system.files import read_bytes
from distcnn.training.receipt import STARTS, Line, Receipt, whole_lines
from distcnn.training.results import METRICS, Records

SPEED = "images_per_second"
"""The value in a line of metrics that a replay cannot reproduce."""
THE_RECEIPT = "the receipt"


class Different(Exception):
    """The replay differs from the records; the text names the first step and value that do."""


class RecordedLines:
    """The lines that a replay must reproduce, in order.

    Args:
        source: where they are recorded, for messages.
        lines: in order.
        may_end_early: whether the run may have been killed before it wrote all of its lines.
    """

    def __init__(self, source: str, lines: Sequence[Line], may_end_early: bool) -> None:
        self._source, self._lines, self._may_end_early = source, lines, may_end_early
        self.compared: list[Line] = []

    def compare(self, kind: str, values: Line) -> None:
        """``Different`` unless the next line is of this ``kind`` and has these ``values``."""
        replayed = json.loads(json.dumps({"kind": kind, **values}))
        recorded = self._next()
        if recorded is None and self._may_end_early:
            return
        if text := difference(recorded, replayed, self._source):
            raise Different(self._at(replayed["step"]) + text)
        self.compared.append(replayed)

    def close(self) -> None:
        """``Different`` when lines are left that the replay did not produce."""
        if line := self._next():
            raise Different(
                f"{self._at(line['step'])}{self._source} has a line {line.get('kind')!r} of step"
                f" {line['step']}, but the replay has none"
            )

    def _next(self) -> Line | None:
        place = len(self.compared)
        return self._lines[place] if place < len(self._lines) else None

    def _at(self, step: int) -> str:
        before = f"step {self.compared[-1]['step']}" if self.compared else "none"
        return f"step {step} (last recorded step that matches: {before}): "


def difference(recorded: Line | None, replayed: Line, source: str = THE_RECEIPT) -> str:
    """What differs in two lines: the first parameter, else the first value; empty if nothing."""
    if recorded is None:
        return f"the replay has a line {replayed['kind']!r} here, but {source} has none"
    if (recorded.get("kind"), recorded.get("step")) != (replayed["kind"], replayed["step"]):
        return (
            f"the replay has a line {replayed['kind']!r} here, but {source} has"
            f" {recorded.get('kind')!r} of step {recorded.get('step')}"
        )
    hashes = replayed.get("parameters", {})
    before = recorded.get("parameters", {}) if hashes else {}
    if name := _first_different(before, hashes):
        return (
            f"parameter {name}: SHA-256 {before.get(name)} in {source},"
            f" but {hashes.get(name)} in the replay"
        )
    name = _first_different(recorded, replayed)
    if name is None:
        return ""
    agrees = "; all parameters match" if hashes else ""
    return (
        f"{name}: {recorded.get(name)} in {source}, but {replayed.get(name)} in the replay{agrees}"
    )


def _first_different(recorded: Line, replayed: Line) -> str | None:
    names = {**replayed, **recorded}
    return next((name for name in names if recorded.get(name) != replayed.get(name)), None)


def read_metrics(directory: Path, checkpoint: Checkpoint | None, to_step: int) -> list[Line]:
    """The lines of ``metrics.jsonl`` that a replay from ``checkpoint`` to ``to_step`` must produce,
    without their speeds.

    Raises:
        ValueError: says what is wrong with them.
    """
    begun = checkpoint.texts["metrics"] if checkpoint else ""
    try:
        text = read_bytes(directory / METRICS).decode()
        if checkpoint and not text.startswith(begun):
            raise ValueError(
                f"it does not begin with the lines in the checkpoint of step {checkpoint.step}"
            )
        lines = [line for line in whole_lines(text[len(begun) :]) if line["step"] <= to_step]
        return [_without_speed(line) for line in lines]
    except OSError as error:
        raise ValueError(f"{METRICS} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{METRICS} is damaged ({type(error).__name__}: {error})") from error


def _without_speed(line: Line) -> Line:
    return {name: value for name, value in line.items() if name != SPEED}


class Comparison(Records):
    """Takes a replay's lines in place of a run directory; compares each with the recorded one.

    ``Different`` on all ranks at the first that is not the same.

    Args:
        receipt: what was recorded.
        from_step: lines on this step, or before, are not compared.
        to_step: nor are those after this one.
        metrics: the lines of metrics for these steps; None to compare none.
    """

    def __init__(
        self, receipt: Receipt, from_step: int, to_step: int, metrics: list[Line] | None = None
    ) -> None:
        lines = [
            line
            for line in receipt.lines
            if line["kind"] not in STARTS and from_step < line["step"] <= to_step
        ]
        was_killed = to_step == receipt.last_step and not receipt.ended
        self._receipt = RecordedLines(THE_RECEIPT, lines, was_killed)
        self._metrics = RecordedLines(METRICS, metrics or [], was_killed or metrics is None)

    @property
    def compared(self) -> list[Line]:
        """The receipt's lines that were compared."""
        return self._receipt.compared

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Compare one line of ``metrics.jsonl``."""
        self._metrics.compare(kind, _without_speed(values))

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """Compare one line of the receipt."""
        self._receipt.compare(kind, {"step": step, **values})

    def close(self) -> None:
        """``Different`` when lines were recorded that the replay did not produce."""
        self._receipt.close()
        self._metrics.close()
