"""Signals that ask a run to stop: Ctrl-C, SIGTERM, SIGHUP of a closed terminal, and the warnings of
schedulers (SIGUSR1, SIGUSR2, SIGXCPU).

Python runs handlers in the main thread between bytecodes, so never while it waits in MPI. But their
C part writes the signal's number to a pipe at once, which a thread reads. Only this thread does not
block the signals: a main thread that waits for a hung file system would not even run the C part.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from distcnn.system.console import tell

STOP_SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
SECONDS_BETWEEN_INTERRUPTS = 0.5
"""Within this time two count as one: from the terminal and through the launcher."""
SECONDS_TO_MAKE_RUN = 5.0
"""How long a signal waits while a run directory is made: the file system may hang."""
EXIT_INTERRUPTED = 130


def stop_signals_here() -> tuple[signal.Signals, ...]:
    """The stop signals that this process handles: all, but not SIGHUP under ``nohup``."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored)


@contextmanager
def received_by_children() -> Iterator[None]:
    """Let processes that this thread starts receive stop signals: they inherit what it blocks."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignals:
    """A context in which stop signals set ``requested``; a rank that ``speaks`` prints it. While
    ``steps_are_taken`` is off, ``end_all`` ends all ranks. Nothing happens outside the main thread.

    With ``to_the_end``, signals are ignored afterwards: a process that is about to end with its
    exit code must not be killed by a second one.
    """

    def __init__(
        self, name: str, speaks: bool, end_all: Callable[[], None], to_the_end: bool = False
    ) -> None:
        self._name, self._speaks = name, speaks
        self._end_all, self._to_the_end = end_all, to_the_end
        self.requested: str | None = None
        """Name of the first signal."""
        self.steps_are_taken = False
        """Set it with the first step: from then on there is something to save."""
        self.can_resume = False
        """Whether there is a run directory to resume."""
        self.received: signal.Signals | None = None
        """The signal for which ``end_all`` is called."""
        self._making = threading.Lock()
        self._first_interrupt: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # elsewhere Python sets no handlers
        self._listens = threading.current_thread() is threading.main_thread()
        if not self._listens:
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in stop_signals_here():
            # Python writes to the pipe only for signals that have a handler
            self._before[number] = signal.signal(number, lambda number, frame: None)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        return self

    def __exit__(self, *error: object) -> None:
        if not self._listens:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._to_the_end else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    @contextmanager
    def making_run(self) -> Iterator[None]:
        """Let signals take effect afterwards: they never leave an incomplete run directory."""
        with self._making:
            yield
            self.can_resume = True

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        while numbers := self._reader.recv(64):
            for number in numbers:
                if number in self._before:
                    self._take(signal.Signals(number))

    def _take(self, received: signal.Signals) -> None:
        if not self.steps_are_taken:
            self._end_before_steps(received)
        if received == signal.SIGINT:
            now = time.monotonic()
            self._first_interrupt = self._first_interrupt or now
            if now - self._first_interrupt > SECONDS_BETWEEN_INTERRUPTS:
                os._exit(EXIT_INTERRUPTED)
        if self.requested is None:
            self.requested = received.name
            if self._speaks:
                again = "; Ctrl-C again ends at once" if received == signal.SIGINT else ""
                tell(f"{self._name}: {received.name}: saving a checkpoint, then stopping{again}")

    def _end_before_steps(self, received: signal.Signals) -> None:
        """There is nothing to save, unless the first step came while a run directory was made."""
        held = self._making.acquire(timeout=SECONDS_TO_MAKE_RUN)
        if not self.steps_are_taken:
            self.received = received
            tell(f"{self._name}: ended by {received.name} before the first step: nothing to save")
            self._end_all()
        if held:
            self._making.release()
