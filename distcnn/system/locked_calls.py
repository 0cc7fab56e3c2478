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


@contextmanager
def killable(seconds: float = 0.0) -> Iterator[None]:
    """Let SIGTERM, Ctrl-C and a timer end this process within the block.

    In the main thread the signals get their default action, unless they are ignored. Use it only
    around such calls: a signal ends the process without a checkpoint. After ``seconds`` (0: never)
    a thread in C prints the stacks and ends the process with exit code 1.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, signal.SIG_DFL)
        if seconds:
            faulthandler.dump_traceback_later(seconds, exit=True, file=_errors())
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _errors() -> int:
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ else _nowhere()
    except (OSError, ValueError):  # closed, or not a file: print nothing
        return _nowhere()


@functools.cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
