"""Files of a run directory that grow line by line, and lose none: JSON lines and the CSV table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distcnn.config import Config
from distcnn.system import files
from distcnn.training.receipt import NO_LINE, PREVIOUS, Line, last_sha256, sha256_of, whole_lines
from distcnn.training.results import METRICS, TIMINGS
from distcnn.training.run_files import Report

SPEED = "images_per_second"
COLUMNS = (
    *("kind", "step", "epoch", "loss", "learning_rate", "train_loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy", "test_loss", "test_accuracy"),
    SPEED,
)
"""The columns of ``metrics.csv``; those of validation only where there is one, and the speed only
in native arithmetic.
"""


def recorded_metrics(folder: Path) -> list[Line]:
    """The lines of ``metrics.jsonl``, with the speeds that a portable run has in another file.

    ``OSError``, or one of ``MALFORMED``, when they cannot be read.
    """
    lines = whole_lines(files.read_bytes(folder / METRICS).decode())
    timed: dict[tuple[str, int], Line] = {}
    with suppress(FileNotFoundError):
        for line in whole_lines(files.read_bytes(folder / TIMINGS).decode()):
            timed[line["kind"], line["step"]] = {SPEED: line[SPEED]}
    return [line | timed.get((line["kind"], line["step"]), {}) for line in lines]


class GrowingFile:
    """A file to which pieces are appended, also in memory: a full disk neither ends the run nor
    loses a piece.
    """

    def __init__(self, name: str, locate: Callable[[], Path], report: Report) -> None:
        self._name, self._locate, self._report = name, locate, report
        self._pieces: list[bytes] = []
        self._whole = True
        """Whether the file holds all pieces, as far as we know."""
        self._reported = False

    @property
    def content(self) -> bytes:
        """All pieces so far."""
        return b"".join(self._pieces)

    def begin_with(self, content: bytes) -> None:
        """Make the file hold exactly ``content`` from the next piece on."""
        self._pieces = [content]
        self.file_is_lost()

    def file_is_lost(self) -> None:
        """Write all pieces with the next one."""
        self._whole = False

    def append(self, piece: bytes) -> None:
        """Append one piece; an empty one writes what is missing in the file."""
        self._pieces.append(piece)
        try:
            path = self._locate() / self._name
            if self._whole:
                files.append(path, piece)
            else:
                files.write_atomically(path, self.content, sync=False)
            self._whole, self._reported = True, False
        except OSError as error:
            self._whole = False
            if not self._reported:
                self._reported = True
                self._report(
                    f"warning: {self._name} cannot be written ({error.strerror}): its content is"
                    " kept in memory; training continues"
                )

    def complete(self) -> None:
        """Make the file hold all pieces, whatever others have done to it."""
        path, content = self._locate() / self._name, self.content
        with suppress(OSError):
            if files.read_bytes(path) == content:
                return
        if self._whole:
            self._report(f"warning: {path} was changed or removed by others: writing it again")
        files.write_atomically(path, content)
        self._whole = True


class LineLog(GrowingFile):
    """A file of JSON lines."""

    @property
    def text(self) -> str:
        """All lines so far."""
        return self.content.decode()

    def restore(self, text: str) -> None:
        """Make the file hold exactly ``text``."""
        self.begin_with(text.encode())
        self.append(b"")

    def add(self, values: dict[str, Any]) -> None:
        """Append one line."""
        self.append((json.dumps(values) + "\n").encode())


class ChainedLog(LineLog):
    """A file of JSON lines, each of which has the hash of the one before."""

    sha256 = NO_LINE
    """The hash of the last line."""

    def begin_with(self, content: bytes) -> None:
        super().begin_with(content)
        self.sha256 = last_sha256(content)

    def add(self, values: dict[str, Any]) -> None:
        line = json.dumps({**values, PREVIOUS: self.sha256}).encode()
        self.sha256 = sha256_of(line)
        self.append(line + b"\n")


class MetricsTable(GrowingFile):
    """The lines of metrics as CSV, for spreadsheets and pandas: one row a line, empty where a
    value was not measured.
    """

    def __init__(
        self, name: str, locate: Callable[[], Path], report: Report, columns: Sequence[str]
    ) -> None:
        super().__init__(name, locate, report)
        self._columns = columns
        self.begin_with(table_of("", columns))

    def restore(self, metrics: str) -> None:
        """Make the file hold exactly the lines of ``metrics``, the text of metrics.jsonl."""
        self.begin_with(table_of(metrics, self._columns))
        self.append(b"")

    def add(self, values: dict[str, Any]) -> None:
        """Append one row."""
        self.append(_row(values, self._columns))


def columns_of(config: Config) -> list[str]:
    """The columns of ``metrics.csv`` of a run."""
    return [
        name
        for name in COLUMNS
        if (config.validation or not name.startswith("validation_"))
        and not (name == SPEED and config.is_portable)
    ]


def table_of(metrics: str, columns: Sequence[str]) -> bytes:
    """``metrics.csv`` for the text of metrics.jsonl."""
    header = dict(zip(columns, columns, strict=True))
    return b"".join(_row(values, columns) for values in [header, *whole_lines(metrics)])


def _row(values: dict[str, Any], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values.get(name, "") for name in columns)
    return text.getvalue().encode()
