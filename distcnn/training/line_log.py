"""Files of JSON lines that are also kept in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distcnn.system.files import append, read_bytes, write_atomically


class LineLog:
    """The file ``name`` in the folder that ``locate`` gives: a full disk neither ends the run nor
    leaves half a line for good.
    """

    def __init__(
        self, name: str, locate: Callable[[], Path], report: Callable[[str], None]
    ) -> None:
        self._name, self._locate, self._report = name, locate, report
        self._lines: list[str] = []
        self._whole = True
        """Whether the file holds all lines, as far as we know."""
        self._reported = False

    @property
    def text(self) -> str:
        """All lines so far."""
        return "".join(self._lines)

    def restore(self, text: str) -> None:
        """Let the file hold exactly ``text``."""
        self._lines = [text]
        self.file_is_lost()
        self._write("")

    def file_is_lost(self) -> None:
        """The next line is to bring all others with it: the file was lost with its folder, or holds
        other lines.
        """
        self._whole = False

    def add(self, values: dict[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(values) + "\n"
        self._lines.append(line)
        self._write(line)

    def complete(self) -> None:
        """Let the file hold all lines, whatever others have done to it.

        ``OSError`` when it cannot be written.
        """
        path, content = self._locate() / self._name, self.text.encode()
        with suppress(OSError):
            if read_bytes(path) == content:
                return
        if self._whole:
            self._report(f"warning: {path} was changed or removed by others: it is written again")
        write_atomically(path, content)
        self._whole = True

    def _write(self, line: str) -> None:
        try:
            path = self._locate() / self._name
            if self._whole:
                append(path, line)
            else:
                write_atomically(path, self.text.encode(), sync=False)
            self._whole, self._reported = True, False
        except OSError as error:
            self._whole = False
            if not self._reported:
                self._reported = True
                self._report(
                    f"warning: {self._name} cannot be written ({error.strerror}): its lines are"
                    " kept in memory; training goes on"
                )
