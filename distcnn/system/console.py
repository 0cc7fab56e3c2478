"""Standard output and standard error. All that distcnn prints goes through here, and nothing
printed can end or delay a run.

``guarded`` replaces ``sys.stdout`` and ``sys.stderr`` while a command runs, so the promise covers
whatever libraries and a user's own modules print as well. A stream that is closed, full, broken or
cannot encode a character never raises. A stream that blocks (Ctrl-S, a pager, a full pipe) holds up
a thread: lines wait in a bounded queue, the oldest are left out when it is full, and the gap is
reported.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

from distcnn.system.wording import counted, printable

MOST_WAITING = 1 << 20
"""Characters that may wait for a stream that blocks: some ten thousand lines."""
SECONDS_TO_FLUSH = 0.5
"""How long a line may delay its writer, so that the two streams keep their order on a terminal; not
again while the stream blocks.
"""
SECONDS_TO_DRAIN = 5.0
"""How long the end of a process waits for whoever reads its output."""


def say(*lines: str) -> None:
    """Print lines to standard output.

    A line feed or an escape sequence within one (in a name, a path) is shown as an escape.
    """
    print("".join(f"{printable(each)}\n" for each in lines), end="", flush=True)


def tell(text: str) -> None:
    """Print ``text``, of one line or several, to standard error, in one piece.

    Works without ``guarded`` too, and never raises.
    """
    whole = printable(text, keep="\n\t") + "\n"
    with suppress(
        Exception
    ):  # full, closed, not there, or replaced by something that raises what it likes
        sys.stderr.write(encodable(whole, sys.stderr))
        sys.stderr.flush()


def drain() -> None:
    """Wait until both streams have taken what was printed, for ``SECONDS_TO_DRAIN`` at most: before
    a process ends in an unusual way.
    """
    end = time.monotonic() + SECONDS_TO_DRAIN
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.drain(end - time.monotonic())
        else:
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()


def encodable(text: str, stream: Any) -> str:
    """``text`` with what the stream's encoding lacks as escapes; streams without an encoding take
    everything.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode()


def replace_closed_streams() -> None:
    """Open the null device for each standard stream that was closed when Python started.

    Otherwise the next file that is opened takes the free descriptor, and what C libraries print
    lands in it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(descriptor)
            except OSError:
                null = os.open(
                    os.devnull, os.O_RDWR
                )  # the lowest free descriptor, which this one may be
                if null != descriptor:
                    os.dup2(null, descriptor)
                    os.close(null)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def enable_crash_reports() -> None:
    """Let a crash in a library (HDF5 on a damaged file) show where it was, if standard error has a
    descriptor to write that to.
    """
    with suppress(OSError, ValueError):
        if not faulthandler.is_enabled():
            faulthandler.enable()


@contextmanager
def guarded() -> Iterator[None]:
    """Print through ``Output`` meanwhile; also a decorator.

    At the end, wait a bounded time for the streams to take everything.
    """
    replace_closed_streams()
    if isinstance(sys.stdout, Output):  # a command called by another one
        yield
        return
    errors = Output(sys.stderr, lambda error: None)
    output = Output(sys.stdout, lambda error: print(_warning(error), file=errors))
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:
            drain()


def _warning(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"warning: standard output cannot be written ({reason}): continuing without it"


class Output(io.TextIOBase):
    """A text stream in front of ``stream`` that never raises and does not block for longer than
    ``SECONDS_TO_FLUSH``.

    The process's own streams are written to by a thread, through their descriptor; one that
    somebody put in their place (in a notebook, by a test) is called directly. ``lost`` is called,
    once, with what kept a text from being written.
    """

    encoding, errors = "", "backslashreplace"

    def __init__(self, stream: Any, lost: Callable[[Exception], None]) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._partial = ""
        self._lock = threading.Lock()
        descriptor = None
        own: tuple[Any, ...] = sys.__stdout__, sys.__stderr__
        if any(stream is each for each in own):
            with suppress(OSError, ValueError):
                descriptor = int(stream.fileno())
                stream.flush()  # what was printed before comes first
        self._queue = Queue(
            lambda text: self._write_through(text, descriptor),
            lost,
            in_thread=descriptor is not None,
        )

    def write(self, text: str) -> int:
        """Take ``text``; whole lines are passed on at once, the rest when the line ends or by
        ``flush``.
        """
        with self._lock:
            self._partial += text
            whole, feed, rest = self._partial.rpartition("\n")
            if text.startswith("\r") and not feed:  # a progress bar draws itself anew
                whole, rest = rest, ""
            self._partial = rest
        if whole or feed:
            self._queue.put(whole + feed)
        return len(text)

    def flush(self) -> None:
        """Pass everything on, and wait a moment until it is written."""
        with self._lock:
            text, self._partial = self._partial, ""
        if text:
            self._queue.put(text)
        self._queue.wait(SECONDS_TO_FLUSH)

    def drain(self, seconds: float) -> None:
        """Pass everything on, and wait up to ``seconds`` even for a stream that blocks."""
        self.flush()
        self._queue.wait(seconds)

    def isatty(self) -> bool:
        try:
            return bool(self._stream.isatty())
        except (OSError, ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        """The stream's descriptor; ``OSError`` where it has none."""
        try:
            return int(self._stream.fileno())
        except (AttributeError, ValueError) as error:
            raise io.UnsupportedOperation("fileno") from error

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> Any:
        """The stream's own, for those who write bytes."""
        return self._stream.buffer

    def _write_through(self, text: str, descriptor: int | None) -> None:
        text = encodable(text, self._stream)
        if descriptor is not None:
            write_all(descriptor, text.encode(self.encoding, "replace"))
        else:
            self._stream.write(text)
            if hasattr(self._stream, "flush"):
                self._stream.flush()


def write_all(descriptor: int, raw: bytes) -> None:
    """Write every byte, however long that takes, also to a descriptor that somebody made
    non-blocking.
    """
    while raw:
        try:
            raw = raw[os.write(descriptor, raw) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


@dataclass
class Piece:
    """Text that waits; ``passing`` where the next piece of this kind takes its place (a progress
    bar's line).
    """

    text: str
    passing: bool


class Queue:
    """Pieces on their way to ``write``, in a thread that lives while there are any; where none can
    be started, in the caller.
    """

    def __init__(
        self, write: Callable[[str], None], lost: Callable[[Exception], None], in_thread: bool
    ) -> None:
        self._write, self._lost, self._in_thread = write, lost, in_thread
        self._waiting: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._works = False
        self._waited = 0.0
        """Seconds that callers have waited in vain since the stream began to block."""
        self._left_out = 0
        self._failure: Exception | None = None
        self._told = False

    def put(self, text: str) -> None:
        """Append a piece, and have it written unless the ones before are still being written."""
        passing = text.startswith("\r") and len(text) > 1 and "\n" not in text
        with self._changed:
            if passing and self._waiting and self._waiting[-1].passing:
                self._waiting.pop()
            self._waiting.append(Piece(text, passing))
            while (
                len(self._waiting) > 1
                and sum(len(each.text) for each in self._waiting) > MOST_WAITING
            ):
                self._left_out += self._waiting.popleft().text.count("\n")
            if self._works:
                return
            self._works = True
        if not (self._in_thread and self._start()):
            self._work()

    def wait(self, seconds: float) -> None:
        """Wait until all is written, at most ``seconds``; while the stream blocks, earlier waits
        count towards them.
        """
        with self._changed:
            start, longest = time.monotonic(), max(0.0, seconds - self._waited)
            done = self._changed.wait_for(lambda: not self._works, longest)
            self._waited = 0.0 if done else self._waited + time.monotonic() - start

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._work, name="output", daemon=True).start()
        except RuntimeError:  # no more threads: a limit, or the interpreter is ending
            return False
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._works = False
                    self._changed.notify_all()
                    return
                text, gap = self._waiting.popleft().text, self._left_out
            try:
                self._write(
                    f"[{counted(gap, 'line')} left out: they could not be written in time]\n{text}"
                    if gap
                    else text
                )
                with self._changed:
                    self._left_out -= gap
            except Exception as error:  # whatever a replaced stream may raise
                self._fail(error, text)
            except BaseException:  # Ctrl-C in a caller that writes itself: the next one goes on
                self._works = False
                raise

    def _fail(self, error: Exception, text: str) -> None:
        """Count the text as left out.

        A reader that has left is worth a word only when there is more to say: it had enough of it.
        """
        with self._changed:
            self._left_out += text.count("\n")
        again, self._failure = self._failure is not None, error
        if not self._told and (again or getattr(error, "errno", None) != errno.EPIPE):
            self._told = True
            self._lost(error)
