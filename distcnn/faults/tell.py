"""Writing to standard error, whatever becomes of it."""

from __future__ import annotations

import sys
from contextlib import suppress


def tell(text: str) -> None:
    """Write ``text`` and a line feed in one piece.

    A standard error that takes nothing (a full disk, a closed pipe) must not end the run.
    """
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
