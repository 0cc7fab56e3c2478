"""Standard output and standard error. Everything that distcnn prints goes through here, and nothing
printed can end or delay a run.

``guarded`` replaces ``sys.stdout`` and ``sys.stderr`` while a command runs, so that this also holds
for output of libraries and the user's own modules.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

from distcnn.system.output_stream import OutputStream, encodable
from distcnn.system.wording import printable

SECONDS_TO_DRAIN = 5.0
"""How long a process waits at its end for the reader of its output."""


def say(*lines: str) -> None:
    """Print lines to standard output.

    A line feed or an escape sequence within one (in a name, a path) is shown as an escape.
    """
    print("".join(f"{printable(line)}\n" for line in lines), end="", flush=True)


def tell(text: str) -> None:
    """Print ``text``, one or several lines, to standard error in one piece.

    Works without ``guarded`` too, and never raises.
    """
    whole = printable(text, keep="\n\t") + "\n"
    with suppress(Exception):  # full, closed, missing, or replaced by something that raises
        sys.stderr.write(encodable(whole, sys.stderr))
        sys.stderr.flush()


def drain() -> None:
    """Wait until both streams have taken what was printed, at most ``SECONDS_TO_DRAIN``.

    Call it before a process ends in an unusual way.
    """
    end = time.monotonic() + SECONDS_TO_DRAIN
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, OutputStream):
            stream.drain(end - time.monotonic())
        else:
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()


def replace_closed_streams() -> None:
    """Open the null device for each standard stream that was closed when Python started.

    Otherwise the next file that is opened takes the free descriptor, and what C libraries print
    ends up in it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(descriptor)
            except OSError:
                null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
                if null != descriptor:
                    os.dup2(null, descriptor)
                    os.close(null)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def enable_crash_reports() -> None:
    """Print a stack if a library crashes (HDF5 on a damaged file)."""
    with suppress(OSError, ValueError):  # standard error has no descriptor
        if not faulthandler.is_enabled():
            faulthandler.enable()


@contextmanager
def guarded() -> Iterator[None]:
    """Print through ``OutputStream`` within the block; also a decorator.

    At the end, wait a bounded time until the streams have taken everything.
    """
    replace_closed_streams()
    if isinstance(sys.stdout, OutputStream):  # a command called by another one
        yield
        return
    errors = OutputStream(sys.stderr, lambda error: None)
    output = OutputStream(sys.stdout, lambda error: print(_warning(error), file=errors))
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:
            drain()


def _warning(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"warning: standard output cannot be written ({reason}): continuing without it"
