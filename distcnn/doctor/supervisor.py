"""A process beside rank 0 that has the report so far: should rank 0 die or hang (in MPI_Init, in a
library), it is printed all the same.

It is forked before any library is there. It knows of its parent's end because the pipe between them
closes, and stays until then: MPI may hang in its last call too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from distcnn.doctor.finding import BAD, Finding
from distcnn.doctor.report import Report
from distcnn.system.console import drain

SECONDS_TO_GO = 1.0
SECONDS_TO_LEAVE = 10.0
"""From the report to the end of the process, which also takes its time on a busy machine."""
MOST_DESCRIPTORS = 1024
Say = Callable[[Report], None]

LOOK = (
    "what was said on standard error, above or below, may name the reason; the lines above are what"
    " was seen before"
)
REMEDIES = {
    "starting MPI": (
        "see the lines above on memory, /dev/shm and limits, and standard error; "
        "does a plain MPI program start (mpirun -n 2 python -m mpi4py.bench helloworld)?"
    )
}


class Guardian:
    """While it is entered.

    Without ``needed`` it does nothing. ``say`` prints a report; ``seconds`` is all that everything
    may take.
    """

    def __init__(self, needed: bool, seconds: float, say: Say) -> None:
        self._needed, self._end, self._say = (
            needed and hasattr(os, "fork"),
            time.monotonic() + seconds,
            say,
        )
        self._child = 0

    def __enter__(self) -> Guardian:
        if self._needed:
            reader, self._writer = os.pipe()
            parent = os.getpid()
            try:
                self._child = os.fork()
            except OSError:  # a limit on processes: nobody watches this one
                os.close(reader)
                os.close(self._writer)
                return self
            if self._child == 0:
                os.closerange(
                    3, reader
                )  # what the launcher listens to must close when the parent ends
                os.closerange(reader + 1, MOST_DESCRIPTORS)
                try:
                    self._guard(reader, parent)
                finally:
                    drain()
                    os._exit(0)
            os.close(reader)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._send({"done": kind is None})
        if kind is not None:
            self._wait()

    def note(self, stage: str, report: Report) -> None:
        """What comes next, and the report so far."""
        self._send({"stage": stage, "report": report.as_dict()})

    def speak(self, why: str) -> None:
        """Print the report so far now, with ``why`` as its last line; returns when that was
        done.
        """
        self._send({"why": why})
        self._wait()

    def _send(self, message: dict[str, Any]) -> None:
        if self._child:
            with suppress(OSError):
                os.write(self._writer, (json.dumps(message) + "\n").encode())

    def _wait(self) -> None:
        if self._child:
            os.close(self._writer)
            with suppress(OSError):
                os.waitpid(self._child, 0)
            self._child = 0

    def _guard(self, reader: int, parent: int) -> None:
        """The child's life."""
        # a launcher that ends the parent's process group must not end this one before it has spoken
        os.setsid()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        last: dict[str, Any] = {"stage": "starting", "report": Report().as_dict()}
        rest = b""
        while True:
            left = self._end - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                if not last.get("done"):
                    self._speak(last, "it did not end in time")
                self._end_parent(parent)
                return
            piece = os.read(reader, 1 << 16)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                last |= message
                if last.get("done"):
                    self._end = max(self._end, time.monotonic() + SECONDS_TO_LEAVE)
                if "why" in message:
                    self._speak(last, message["why"])
                    return
            if not piece:
                if not last.get("done"):
                    self._speak(last, "the process ended, or was ended, while it did this")
                return

    def _speak(self, last: dict[str, Any], why: str) -> None:
        report = Report.of(last["report"])
        report.findings.append(
            Finding("doctor", BAD, f"{last['stage']}: {why}", REMEDIES.get(last["stage"], LOOK))
        )
        self._say(report)

    def _end_parent(self, parent: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if os.getppid() == parent:
                os.kill(parent, number)
                time.sleep(SECONDS_TO_GO)
