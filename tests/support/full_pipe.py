"""A standard output that blocks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make standard output a full pipe; yields its reading end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        yield reader
    finally:
        monkeypatch.undo()
        os.close(reader)  # whoever is writing gets an error
        stream.close()
