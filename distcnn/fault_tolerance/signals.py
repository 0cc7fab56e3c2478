"""Signals that ask a run to stop: Ctrl-C, SIGTERM, a closed terminal's SIGHUP, and schedulers'
warnings (SIGUSR1, SIGUSR2, SIGXCPU).

The ranks agree on it in the next step's sum, or at the next look within an evaluation.

Before the first step there is nothing to save, so there a signal ends all ranks at once: how
depends on whether there is a run to resume.

Python runs signal handlers between bytecodes of the main thread, so never while that waits in MPI.
The C part of a handler writes the signal's number to a pipe at once, though, and a thread reads it:
a second Ctrl-C ends the process whatever the main thread does. The C part runs in that thread, too:
the main thread blocks these signals, as do the threads that it starts. The kernel would give a
signal to the main thread otherwise, and where that waits for a hung file system, it runs no
handler.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from distcnn.system.console import tell

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
SECONDS_BETWEEN_INTERRUPTS = 0.5
"""One Ctrl-C may reach a rank twice, from the terminal and through the launcher: within this time
it is one.
"""

SECONDS_TO_MAKE_RUN = 5.0
"""A signal waits so long for a run directory that is being made; not for ever, the file system may
hang.
"""

EXIT_INTERRUPTED = 130


def stop_signals_here() -> tuple[signal.Signals, ...]:
    """The stop signals that this process handles: all, but SIGHUP where it is ignored, as ``nohup``
    has it.
    """
    return tuple(
        each
        for each in STOP_SIGNALS
        if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN
    )


@contextmanager
def received_by_children() -> Iterator[None]:
    """While it is entered, processes that this thread starts receive stop signals: they inherit
    what it blocks.
    """
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignals:
    """While it is entered, stop signals set ``requested`` to the first one's name. Outside the main
    thread it does nothing.

    ``end_all`` ends all ranks at once; it is called for a signal, then in ``received``, while
    ``steps_are_taken`` is off. With ``to_the_end`` they stay ignored afterwards: a process that is
    about to end with its exit code must not be killed by a second one.
    """

    def __init__(
        self, name: str, speaks: bool, end_all: Callable[[], None], to_the_end: bool = False
    ) -> None:
        self._name, self._speaks, self._end_all, self._to_the_end = (
            name,
            speaks,
            end_all,
            to_the_end,
        )
        self.steps_are_taken = False
        self.can_resume = False
        """Whether the run is on the disk, for ``--resume``: ``end_all`` may say so."""
        self.received: signal.Signals | None = None
        self._making = threading.Lock()
        self.requested: str | None = None
        self._last_interrupt: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._listens = (
            threading.current_thread() is threading.main_thread()
        )  # elsewhere Python sets no handlers
        if not self._listens:
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for each in stop_signals_here():
            self._before[each] = signal.signal(each, _ignore)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._listens:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for each, handler in self._before.items():
            signal.signal(each, signal.SIG_IGN if self._to_the_end else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    @contextmanager
    def making_run(self) -> Iterator[None]:
        """What is done in it puts the run on the disk.

        A signal meanwhile counts after it, so it never ends a run that is there in part.
        """
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
            self._end(received)
        now = time.monotonic()
        if received == signal.SIGINT:
            if (
                self._last_interrupt is not None
                and now - self._last_interrupt > SECONDS_BETWEEN_INTERRUPTS
            ):
                os._exit(EXIT_INTERRUPTED)
            self._last_interrupt = self._last_interrupt or now
        if self.requested is None:
            self.requested = received.name
            if self._speaks:
                again = "; Ctrl-C again ends at once" if received == signal.SIGINT else ""
                tell(f"{self._name}: {received.name}: saving a checkpoint, then stopping{again}")

    def _end(self, received: signal.Signals) -> None:
        """End all, unless the first step came while a run was made.

        The lock is kept meanwhile, so that no run is begun any more.
        """
        held = self._making.acquire(timeout=SECONDS_TO_MAKE_RUN)
        if not self.steps_are_taken:
            self.received = received
            tell(
                f"{self._name}: {received.name} before the first step: ended, nothing was to be"
                " saved"
            )
            self._end_all()
        if held:
            self._making.release()


def _ignore(number: int, frame: FrameType | None) -> None:
    """The pipe says it all; a handler must stand here for Python to write to it."""
