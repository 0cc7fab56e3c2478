"""The receipt of a run, ``receipt.jsonl``: what it did, in lines that a replay must reproduce."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.system.files import read_bytes
from distcnn.training.results import RECEIPT, RESULT
from distcnn.user_source import Sources

Line = dict[str, Any]
STARTS = ("start", "resume")
TABLES = ("dataset", "software", "parameters")
"""Values of a line that hold others, where it has them."""


@dataclass(frozen=True)
class Receipt:
    """The lines of a ``receipt.jsonl``, in order."""

    lines: list[Line]

    @property
    def starts(self) -> list[Line]:
        """The lines of starts and resumes."""
        return [line for line in self.lines if line["kind"] in STARTS]

    @property
    def last_step(self) -> int:
        """The step of the last line."""
        return int(self.lines[-1]["step"])

    @property
    def ended(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.lines[-1]["kind"] == "end")

    def configuration_at(self, step: int) -> Config:
        """The configuration in force from ``step`` on: of the last start or resume up to it."""
        found = [line for line in self.starts if line["step"] <= step]
        return Config.from_record(found[-1]["configuration"])


def read_receipt(directory: Path) -> Receipt:
    """The receipt in ``directory``; a last line cut off by a kill does not count.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = directory / RECEIPT
    try:
        text = read_bytes(path).decode()
        receipt = Receipt(whole_lines(text))
        for line in receipt.lines:
            _check(line)
        have_steps = all(isinstance(line["step"], int) for line in receipt.lines)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): name a run directory of distcnn.train"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a receipt ({type(error).__name__}: {error}): it was altered by hand, or"
            " comes from another program"
        ) from error
    if not receipt.lines or receipt.lines[0]["kind"] != "start" or not have_steps:
        raise InputError(
            f"{path} is not a receipt: its first line must be of kind 'start', and each line must"
            " name its step"
        )
    return receipt


def _check(line: Line) -> None:
    if line["kind"] in STARTS:
        Config.from_record(line["configuration"])
    if not all(isinstance(line.get(name, {}), dict) for name in TABLES):
        raise TypeError(f"a line of step {line['step']} has a value of another type")


def whole_lines(text: str) -> list[Line]:
    """The JSON lines of ``text``, up to its last line feed."""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def readable_lines(text: str) -> Iterator[Any]:
    """The readable JSON lines of ``text``, whatever they contain."""
    for line in text.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def missing_end(directory: Path, receipt: Receipt) -> str:
    """An error text if the receipt of a finished run lacks its end; else an empty one."""
    if receipt.ended or not (directory / RESULT).exists():
        return ""
    return (
        f"{RECEIPT} has no line after step {receipt.last_step}, although the run has finished"
        f" ({RESULT}): its end was cut off"
    )


def sources_in_force(lines: Iterable[Any]) -> Sources | None:
    """The source of the user's code in the last start or resume; None where none is recorded."""
    starts = [line for line in lines if isinstance(line, dict) and line.get("kind") in STARTS]
    recorded = starts[-1].get("model_sources") if starts else None
    if isinstance(recorded, dict) and all(isinstance(text, str) for text in recorded.values()):
        return recorded
    return None
