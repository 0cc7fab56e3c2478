"""Opening files that come from outside: regular files only, so that no FIFO or device makes an importer wait or read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from distcnn.errors import InputError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> BinaryIO:
    """Open ``path`` for reading. ``InputError`` when it cannot be opened or is not a regular file; opening never waits."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read ({reason}): check the path and its permissions") from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = next((name for matches, name in KINDS if matches(mode)), "something else")
        raise InputError(f"{path} is {kind}, not a regular file: remove it, or name another")
    return os.fdopen(handle, "rb")
