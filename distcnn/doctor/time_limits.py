"""Time limits, so that the doctor always ends with a report, whatever hangs."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from distcnn.system.console import drain

T = TypeVar("T")

STANDARD_ERROR = 2
SECONDS_FOR_EVERYTHING = 20.0
SECONDS_TO_START_MPI = 12.0


def bounded(seconds: float, what: str, work: Callable[[], T]) -> T:
    """Return the result of ``work``, which runs in a thread.

    Raises ``TimeoutError``, and leaves the thread behind, if it takes longer than ``seconds``.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=what, daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        text = f"{what} took more than {seconds:g} s: the file system hangs or is slow"
        raise TimeoutError(text) from None


def limit_process(seconds: float = SECONDS_FOR_EVERYTHING) -> None:
    """Print the stack and end this process with exit code 1 after ``seconds``."""
    # A thread in C, which also works while a library holds Python's lock.
    faulthandler.dump_traceback_later(seconds, exit=True, file=STANDARD_ERROR)


@contextmanager
def watched_start(
    speak: Callable[[str], None], seconds: float = SECONDS_TO_START_MPI
) -> Iterator[None]:
    """Report if this process hangs or dies within the block, which is to start MPI.

    MPI_Init holds Python's lock and may end the process, so a forked child does this: it calls
    ``speak`` with the reason, and ends this process if it hangs.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():  # the child only prints, so other threads do not matter
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError:  # a limit on processes: do without a watcher
        yield
        return
    if child == 0:
        try:
            os.close(writer)
            os.setsid()  # a launcher that ends the parent's group must not end this one first
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            in_time = bool(select.select([reader], [], [], seconds)[0])
            if not in_time or not os.read(reader, 1):
                speak("the process died" if in_time else f"it took more than {seconds:g} s")
            if not in_time and os.getppid() == parent:
                os.kill(parent, signal.SIGKILL)
        finally:
            drain()
            os._exit(0)
    try:
        yield
    finally:
        os.write(writer, b"started")
        os.waitpid(child, 0)
