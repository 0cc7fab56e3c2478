"""The receipt of a run, ``receipt.jsonl``: what it did, in lines that a replay must reproduce.

The lines are a hash chain: each has the SHA-256 of the line before, so the hash of the last line
stands for the whole receipt. Receipts of older versions have no chain; what a resume adds to one
is chained from its last line on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distcnn.config import OF_THE_MACHINE, Config
from distcnn.nn import PORTABLE
from distcnn.system.files import read_bytes, reading
from distcnn.training.results import ENVIRONMENT, RECEIPT

Line = dict[str, Any]
MALFORMED = ValueError, LookupError, TypeError, AttributeError, RecursionError
"""What reading and checking lines raises for those that distcnn did not write."""
STARTS = ("start", "resume")
START = "start", 0
"""Kind and step of the first line."""
PREVIOUS = "previous_sha256"
"""The name under which a line has the hash of the one before (its bytes without line feed)."""
NO_LINE = "0" * 64
"""What the first line has there."""
TABLES = {
    "dataset": object,
    "software": object,
    "machine": object,
    "initial_weights": str,
    "parameters": str,
    "model_sources": str,
}
"""Values of a line that hold others by name, where it has them, and the others' types."""


@dataclass(frozen=True)
class Receipt:
    """The lines of a ``receipt.jsonl``, in order, without their hashes of the lines before."""

    lines: list[Line]
    sha256: str = ""
    """The hash of the last line, and so of the whole receipt."""
    problem: str = ""
    """Where the chain of hashes is broken; empty if it is whole."""
    environment: Sequence[Line] = ()
    """The lines of ``environment.jsonl``, of a portable run."""

    @property
    def starts(self) -> list[Line]:
        """The lines of starts and resumes."""
        return [line for line in self.lines if line["kind"] in STARTS]

    @property
    def is_portable(self) -> bool:
        """Whether it is the same on every machine."""
        return bool(self.lines[0]["configuration"].get("arithmetic") == PORTABLE)

    @property
    def sessions(self) -> Sequence[Line]:
        """A line for each start and resume, with what it depended on of the machine."""
        return self.environment or self.starts

    @property
    def lacks_environment(self) -> bool:
        """Whether the ``environment.jsonl`` of a portable run is missing."""
        return self.is_portable and not self.environment

    @property
    def last_step(self) -> int:
        return int(self.lines[-1]["step"])

    @property
    def ended(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.lines[-1]["kind"] == "end")

    def weights_at(self, step: int) -> Line | None:
        """The line on the weights of ``step``."""
        found = (line for line in self.lines if (line["kind"], line["step"]) == ("weights", step))
        return next(found, None)

    def configuration_at(self, step: int) -> Config:
        """The configuration in force from ``step`` on: of the last start or resume up to it."""
        found = [line for line in self.starts if line["step"] <= step] or self.starts[:1]
        machine: Line = self.environment[-1]["configuration"] if self.environment else {}
        here = {name: value for name, value in machine.items() if name in OF_THE_MACHINE}
        return Config.from_record({**here, **found[-1]["configuration"]})


def read_receipt(directory: Path) -> Receipt:
    """The receipt in ``directory``; a last line cut off by a kill does not count."""
    with reading(directory / RECEIPT, *MALFORMED, remedy="name a run directory of distcnn.train"):
        receipt = parse_receipt(read_bytes(directory / RECEIPT).decode())
    if not receipt.is_portable:
        return receipt
    with reading(directory / ENVIRONMENT, *MALFORMED), suppress(FileNotFoundError):
        lines = checked(whole_lines(read_bytes(directory / ENVIRONMENT).decode()))
        if not all(line["kind"] in STARTS for line in lines):
            raise ValueError("each line must be of a start or resume")
        return replace(receipt, environment=lines)
    return receipt  # without what a receipt alone does not tell


def parse_receipt(text: str) -> Receipt:
    """The receipt in ``text``; one of ``MALFORMED`` when it is not one."""
    lines = whole_lines(text)
    if not lines or lines[0]["kind"] != "start":
        raise ValueError("its first line must be of kind 'start'")
    checked(lines)
    hashes = [sha256_of(part) for part in text.encode().split(b"\n")[: len(lines)]]
    problem = broken_link(lines, hashes) or rewritten_line(RECEIPT, text) or odd_start(lines)
    kept = [{name: line[name] for name in line if name != PREVIOUS} for line in lines]
    return Receipt(kept, hashes[-1], problem)


def checked(lines: list[Line]) -> list[Line]:
    """``lines`` of a receipt or of an environment; one of ``MALFORMED`` when they are not."""
    for line in lines:
        if not isinstance(line["step"], int):
            raise TypeError("each line must name its step")
        if line["kind"] in STARTS:
            Config.from_record(line["configuration"])
        for name, kind in TABLES.items():
            table = line.get(name, {})
            if not isinstance(table, dict) or not all(isinstance(v, kind) for v in table.values()):
                raise TypeError(f"{name} of a line of step {line['step']} has another type")
    return lines


def sha256_of(line: bytes) -> str:
    """The hash of a line, without its line feed."""
    return hashlib.sha256(line).hexdigest()


def last_sha256(content: bytes) -> str:
    """The hash of the last line of ``content``, which the next one must have."""
    return sha256_of(content.removesuffix(b"\n").rsplit(b"\n", 1)[-1]) if content else NO_LINE


def broken_link(lines: Sequence[Line], hashes: Sequence[str]) -> str:
    """The first line that does not have the hash of the one before, as text; empty if all do.

    Only lines before the chain, which an older version wrote, have none.
    """
    is_chained = False
    for number, line in enumerate(lines):
        is_chained |= PREVIOUS in line
        if is_chained and line.get(PREVIOUS) != (hashes[number - 1] if number else NO_LINE):
            before = lines[max(number - 1, 0)]
            return (
                f"step {before['step']}: {RECEIPT} was changed: its line {number + 1} does not have"
                f" the SHA-256 of the line before ({before['kind']!r} of step {before['step']}), so"
                " a line there was edited, removed, added or moved"
            )
    return ""


def rewritten_line(name: str, text: str) -> str:
    """The first line of the file ``name`` that distcnn writes differently, as text, if any: one
    with a name that occurs twice, for example.
    """
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        if line != json.dumps(json.loads(line)):
            return f"{name} was changed: its line {number} is not one that distcnn writes"
    return ""


def odd_start(lines: Sequence[Line]) -> str:
    """The first line on a start or resume that no run writes, as text, if any."""
    before: Line = {}
    for number, line in enumerate(lines, start=1):
        if line["kind"] not in STARTS:
            continue
        content = {name: line[name] for name in line if name not in ("kind", "step", PREVIOUS)}
        is_portable = line["configuration"].get("arithmetic") == PORTABLE
        is_expected = line["kind"] == "resume" if before else (line["kind"], line["step"]) == START
        if not is_expected or (is_portable and content == before):
            kind, step = line["kind"], line["step"]
            return (
                f"{RECEIPT} was changed: no run writes its line {number} ({kind!r} of step {step})"
            )
        before = content
    return ""


def whole_lines(text: str) -> list[Line]:
    """The JSON lines of ``text``, up to its last line feed."""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
