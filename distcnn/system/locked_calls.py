"""Calls into C that hold the interpreter's lock while they wait, such as HDF5's opening of a file.
Standard library only.

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
    """Let SIGTERM, Ctrl-C and a timer end this process inside, even while the interpreter's lock is
    held.

    In the main thread the signals have their default action meanwhile, unless they are ignored.
    Enter it for such calls only: a signal ends the process without a checkpoint. After ``seconds``
    (0: never) a thread in C prints the stacks and ends the process, exit code 1.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {
            each: signal.getsignal(each) for each in SIGNALS if callable(signal.getsignal(each))
        }
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
    except (OSError, ValueError):  # closed, or not a file: end without a word
        descriptor = _nowhere()
    faulthandler.dump_traceback_later(seconds, exit=True, file=descriptor)


@functools.cache
def _nowhere() -> int:
    """A descriptor that takes everything."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
