"""Standard output and standard error. Everything that distcnn prints goes through here, and nothing
printed can end or delay a run.

``guarded`` replaces ``sys.stdout`` and ``sys.stderr`` while a command runs, so that this also holds
for output of libraries and the user's own modules.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

from distcnn.errors import InputError
from distcnn.spans import touch
from distcnn.system.wording import counted, printable

SECONDS_TO_DRAIN = 5.0  # for the reader of the output, at a process's end
# How long a line may delay its writer, so that both streams keep their order on a terminal.
SECONDS_TO_FLUSH = 0.5
MOST_WAITING = 1 << 20  # characters for a blocked stream: about ten thousand lines


def say(*lines: str) -> None:
    """Print lines to standard output.

    A line feed or an escape sequence within one (in a name, a path) is shown as an escape.
    """
    print("".join(f"{printable(line)}\n" for line in lines), end="", flush=True)


def say_all(lines: Iterable[str], raw: bool = False) -> bool:
    """Like ``say``, for results: waits for a slow reader, however long.

    ``raw`` escapes nothing, unless a terminal shows it: for other programs.
    False when there is no reader any more, as after ``| head``; ``InputError`` when the output
    cannot be written, as to a full disk.
    """
    if raw and not sys.stdout.isatty():
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    else:
        say(*lines)
    if not isinstance(sys.stdout, OutputStream):
        return True
    sys.stdout.wait()
    failure = sys.stdout.failure
    if failure is None or getattr(failure, "errno", None) == errno.EPIPE:
        return failure is None
    reason = getattr(failure, "strerror", None) or failure
    raise InputError(f"standard output cannot be written ({reason}): the results are incomplete")


def tell(text: str) -> None:
    """Print ``text``, one or several lines, to standard error in one piece. Never raises."""
    whole = printable(text, keep="\n\t") + "\n"
    with suppress(Exception):  # full, closed, missing, or replaced by something that raises
        sys.stderr.write(_encodable(whole, sys.stderr))
        sys.stderr.flush()


def drain() -> None:
    """Wait for both streams, before a process ends; at most ``SECONDS_TO_DRAIN``."""
    end = time.monotonic() + SECONDS_TO_DRAIN
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, OutputStream):
            stream.drain(end - time.monotonic())
        else:
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()


def replace_closed_streams() -> None:
    """Open the null device for each standard stream that was closed when Python started: else the
    next file that is opened takes its descriptor, and what C libraries print ends up in it.
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
    """Print through ``OutputStream`` within the block, and drain at its end; also a decorator."""
    replace_closed_streams()
    if isinstance(sys.stdout, OutputStream):  # a command called by another one
        yield
        return
    errors = OutputStream(sys.stderr)
    with redirect_stdout(OutputStream(sys.stdout, errors)), redirect_stderr(errors):
        try:
            yield
        finally:
            drain()


class OutputStream(io.TextIOBase):
    """A text stream in front of another, ``stream``, that never raises and never blocks for long.

    The process's own streams are written by a thread, through their descriptor, which lives while
    text waits; a replacement (in a notebook, by a test) is called directly. If the stream blocks
    (Ctrl-S, a pager, a full pipe), pieces of text wait in a bounded queue, the oldest are dropped
    when it is full, and the gap is reported. The first error is reported to ``errors``.
    """

    encoding, errors = "", "backslashreplace"

    def __init__(self, stream: Any, errors: OutputStream | None = None) -> None:
        self._stream, self._errors = stream, errors
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._descriptor: int | None = None
        own = (sys.__stdout__, sys.__stderr__)
        if stream is not None and any(stream is each for each in own):
            with suppress(OSError, ValueError, AttributeError):
                self._descriptor = int(stream.fileno())
                stream.flush()  # what was printed before comes first
        self._changed = threading.Condition()
        self._partial = ""
        self._waiting: deque[str] = deque()
        self._is_writing = False
        self._waited_seconds = 0.0  # by callers, in vain, since the stream began to block
        self._dropped_lines = 0
        self.failure: Exception | None = None
        """The first one, if any."""

    def write(self, text: str) -> int:
        """Pass complete lines on at once, the rest at the line's end or by ``flush``."""
        with self._changed:
            self._partial += text
            whole, feed, rest = self._partial.rpartition("\n")
            if text.startswith("\r") and not feed:  # a progress bar is redrawn
                whole, rest = rest, ""
            self._partial = rest
        self._pass_on(whole + feed)
        return len(text)

    def flush(self) -> None:
        self.drain(SECONDS_TO_FLUSH)

    def drain(self, seconds: float) -> None:
        """Pass everything on, and wait until it is written: ``seconds`` minus waits in vain."""
        with self._changed:
            text, self._partial = self._partial, ""
        self._pass_on(text)
        with self._changed:
            start, longest = time.monotonic(), max(0.0, seconds - self._waited_seconds)
            done = self._changed.wait_for(lambda: not self._is_writing, longest)
            waited = self._waited_seconds + time.monotonic() - start
            self._waited_seconds = 0.0 if done else waited

    def wait(self) -> None:
        """Pass everything on, and wait until it is written or has failed, however long: a pager
        may be left open, which is not a stall.
        """
        with self._changed:
            text, self._partial = self._partial, ""
        self._pass_on(text)
        with self._changed:
            while not self._changed.wait_for(lambda: not self._is_writing, SECONDS_TO_FLUSH):
                touch()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        try:
            return int(self._stream.fileno())
        except (AttributeError, ValueError) as error:
            raise io.UnsupportedOperation("fileno") from error

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> Any:
        return self._stream.buffer

    def _pass_on(self, text: str) -> None:
        """Append a piece, and have it written unless those before are still being written."""
        if not text:
            return
        with self._changed:
            if self._waiting and _is_bar(text) and _is_bar(self._waiting[-1]):
                self._waiting.pop()
            self._waiting.append(text)
            while len(self._waiting) > 1 and sum(map(len, self._waiting)) > MOST_WAITING:
                self._dropped_lines += self._waiting.popleft().count("\n")
            if self._is_writing:
                return
            self._is_writing = True
        if self._descriptor is not None:
            with suppress(RuntimeError):  # no more threads: a limit, or the interpreter is ending
                threading.Thread(target=self._work, name="output", daemon=True).start()
                return
        self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_writing = False
                    self._changed.notify_all()
                    return
                text, gap = self._waiting.popleft(), self._dropped_lines
            try:
                note = f"[{counted(gap, 'line')} left out: they could not be written in time]\n"
                self._write_through(note + text if gap else text)
                with self._changed:
                    self._dropped_lines -= gap
            except Exception as error:  # whatever a replaced stream may raise
                self._fail(error, text)
            except BaseException:  # Ctrl-C in a caller that writes itself: the next one goes on
                self._is_writing = False
                raise

    def _write_through(self, text: str) -> None:
        if self._descriptor is not None:
            _write_all(self._descriptor, text.encode(self.encoding, self.errors))
        else:
            self._stream.write(_encodable(text, self._stream))
            if hasattr(self._stream, "flush"):
                self._stream.flush()

    def _fail(self, error: Exception, text: str) -> None:
        """Count the text as dropped, and report the error; a closed reader, which may have read
        all that it wanted, only at the second text.
        """
        with self._changed:
            self._dropped_lines += text.count("\n")
        again, self.failure = self.failure is not None, self.failure or error
        if self._errors and (again or getattr(error, "errno", None) != errno.EPIPE):
            reason = getattr(error, "strerror", None) or error
            self._errors.write(
                f"warning: standard output cannot be written ({reason}): continuing without it\n"
            )
            self._errors = None


def _encodable(text: str, stream: Any) -> str:
    """Replace characters missing in the stream's encoding by escapes, if it has an encoding."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write_all(descriptor: int, raw: bytes) -> None:
    """Write every byte, however long that takes, also to a non-blocking descriptor."""
    while raw:
        try:
            raw = raw[os.write(descriptor, raw) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _is_bar(text: str) -> bool:
    """Whether ``text`` draws a progress bar, which the next one replaces."""
    return text.startswith("\r") and len(text) > 1 and "\n" not in text
