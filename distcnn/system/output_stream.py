"""A text stream that never raises and never blocks for long.

If the stream behind it blocks (Ctrl-S, a pager, a full pipe), only a thread waits: pieces of text
wait in a bounded queue, the oldest are dropped when it is full, and the gap is reported.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distcnn.system.wording import counted

MOST_WAITING = 1 << 20
"""Characters that may wait for a blocked stream: about ten thousand lines."""
SECONDS_TO_FLUSH = 0.5
"""How long a line may delay its writer, so that both streams keep their order on a terminal.
Once a stream is blocked, later lines do not delay the writer again.
"""


class OutputStream(io.TextIOBase):
    """A stream in front of another.

    The process's own streams are written by a thread, through their descriptor; a replacement
    (in a notebook, by a test) is called directly.

    Args:
        stream: the stream to write to, if it is writable.
        lost: called once, with the error that kept text from being written.
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
            with suppress(OSError, ValueError, AttributeError):
                descriptor = int(stream.fileno())
                stream.flush()  # what was printed before comes first
        self._queue = _Queue(
            lambda text: self._write_through(text, descriptor), lost, descriptor is not None
        )

    def write(self, text: str) -> int:
        """Take ``text``. Complete lines are passed on at once, the rest at the line's end or by
        ``flush``.
        """
        with self._lock:
            self._partial += text
            whole, feed, rest = self._partial.rpartition("\n")
            if text.startswith("\r") and not feed:  # a progress bar is redrawn
                whole, rest = rest, ""
            self._partial = rest
        if whole or feed:
            self._queue.put(whole + feed)
        return len(text)

    def flush(self) -> None:
        """Pass everything on, and wait a moment until it is written."""
        self.drain(SECONDS_TO_FLUSH)

    def drain(self, seconds: float) -> None:
        """Pass everything on, and wait up to ``seconds`` until it is written."""
        with self._lock:
            text, self._partial = self._partial, ""
        if text:
            self._queue.put(text)
        self._queue.wait(seconds)

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (OSError, ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        """The descriptor of the stream behind; ``OSError`` if it has none."""
        try:
            return int(self._stream.fileno())
        except (AttributeError, ValueError) as error:
            raise io.UnsupportedOperation("fileno") from error

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def buffer(self) -> Any:
        """The buffer of the stream behind, for callers that write bytes."""
        return self._stream.buffer

    def _write_through(self, text: str, descriptor: int | None) -> None:
        text = encodable(text, self._stream)
        if descriptor is not None:
            write_all(descriptor, text.encode(self.encoding, "replace"))
        else:
            self._stream.write(text)
            if hasattr(self._stream, "flush"):
                self._stream.flush()


def encodable(text: str, stream: Any) -> str:
    """Replace characters missing in the stream's encoding by escapes, if it has an encoding."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode()


def write_all(descriptor: int, raw: bytes) -> None:
    """Write every byte, however long that takes, also to a non-blocking descriptor."""
    while raw:
        try:
            raw = raw[os.write(descriptor, raw) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class _Queue:
    """Pieces of text on their way to ``write``.

    A thread that lives while there are any writes them, or the caller if no thread is wanted or can
    be started.
    """

    def __init__(
        self, write: Callable[[str], None], lost: Callable[[Exception], None], in_thread: bool
    ) -> None:
        self._write, self._lost, self._in_thread = write, lost, in_thread
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        self._is_writing = False
        self._waited_seconds = 0.0  # by callers, in vain, since the stream began to block
        self._dropped_lines = 0
        self._has_failed = self._has_told = False

    def put(self, text: str) -> None:
        """Append a piece, and have it written unless those before are still being written."""
        with self._changed:
            if self._waiting and _is_bar(text) and _is_bar(self._waiting[-1]):
                self._waiting.pop()
            self._waiting.append(text)
            while len(self._waiting) > 1 and sum(map(len, self._waiting)) > MOST_WAITING:
                self._dropped_lines += self._waiting.popleft().count("\n")
            if self._is_writing:
                return
            self._is_writing = True
        if not (self._in_thread and self._start()):
            self._work()

    def wait(self, seconds: float) -> None:
        """Wait until all is written, at most ``seconds`` minus earlier waits in vain."""
        with self._changed:
            start, longest = time.monotonic(), max(0.0, seconds - self._waited_seconds)
            done = self._changed.wait_for(lambda: not self._is_writing, longest)
            waited = self._waited_seconds + time.monotonic() - start
            self._waited_seconds = 0.0 if done else waited

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
                    self._is_writing = False
                    self._changed.notify_all()
                    return
                text, gap = self._waiting.popleft(), self._dropped_lines
            try:
                note = f"[{counted(gap, 'line')} left out: they could not be written in time]\n"
                self._write(note + text if gap else text)
                with self._changed:
                    self._dropped_lines -= gap
            except Exception as error:  # whatever a replaced stream may raise
                self._fail(error, text)
            except BaseException:  # Ctrl-C in a caller that writes itself: the next one goes on
                self._is_writing = False
                raise

    def _fail(self, error: Exception, text: str) -> None:
        """Count the text as dropped, and report the error.

        A closed reader (EPIPE) is reported only at the second text: it may have read all it wanted.
        """
        with self._changed:
            self._dropped_lines += text.count("\n")
        again, self._has_failed = self._has_failed, True
        if not self._has_told and (again or getattr(error, "errno", None) != errno.EPIPE):
            self._has_told = True
            self._lost(error)


def _is_bar(text: str) -> bool:
    """Whether ``text`` draws a progress bar, which the next one replaces."""
    return text.startswith("\r") and len(text) > 1 and "\n" not in text
