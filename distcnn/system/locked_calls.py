"""Calls into C that hold Python's lock while they wait, such as HDF5's opening of a file.

Until such a call returns, no Python code runs in any thread: no watchdog, no signal handler. Only
the kernel and threads in C can end it.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def killable(seconds: float = 0.0) -> Iterator[None]:
    """Let SIGTERM, Ctrl-C and a timer end this process within the block.

    In the main thread the signals get their default action, unless they are ignored. Use it only
    around such calls: a signal ends the process without a checkpoint.

    Args:
        seconds: after these a thread in C prints the stacks and ends the process with exit code 1;
            0: never.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in SIGNALS}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, signal.SIG_DFL)
        if seconds:
            _start_timer(seconds)
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _start_timer(seconds: float) -> None:
    try:
        descriptor = sys.__stderr__.fileno() if sys.__stderr__ else _nowhere()
    except (OSError, ValueError):  # closed, or not a file: print nothing
        descriptor = _nowhere()
    faulthandler.dump_traceback_later(seconds, exit=True, file=descriptor)


@functools.cache
def _nowhere() -> int:
    """A descriptor of the null device."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
