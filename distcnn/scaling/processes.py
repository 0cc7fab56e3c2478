"""The processes of a point: started in a session of their own, ended whole.

A launcher's children may leave its process group, and outlive it. All of them inherit a mark in
their environment, by which they are found in /proc; where there is no /proc, the group is all that
can be ended. What runs on other hosts is the launcher's to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

MARK = "DISTCNN_SWEEP_PROCESS"
"""In the environment of all processes of a sweep: its directory."""
SECONDS_TO_END = 5.0
"""After SIGTERM, which a launcher passes on; then SIGKILL."""
NAP_SECONDS = 0.05


def start(
    command: Sequence[str], mark: str, output: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``command``, which writes all it says to ``output``.

    ``OSError`` when it cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, MARK: mark},
        start_new_session=True,
    )


def marked(mark: str) -> list[int]:
    """The living processes with ``mark``, except this one."""
    entry, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (
                entry in (folder / "environ").read_bytes().split(b"\0")
                and int(folder.name) != os.getpid()
            ):
                found.append(int(folder.name))
    return found


def end_all(
    mark: str,
    process: subprocess.Popen[bytes] | None = None,
    hurry: Callable[[], bool] = lambda: False,
) -> None:
    """End ``process``, its group and everything with ``mark``. Returns when none is left, or none
    can be ended.

    SIGTERM goes to the launcher's group, for a launcher ends its ranks in its own way; once it is
    gone, to all that it left. After ``SECONDS_TO_END``, or in a ``hurry``, SIGKILL goes to all.
    """
    told: set[int] = set()
    begin = time.monotonic()
    while time.monotonic() < begin + 2 * SECONDS_TO_END:
        launcher = [process.pid] if process is not None and process.poll() is None else []
        others = marked(mark)
        if not launcher and not others:
            return
        if hurry() or time.monotonic() > begin + SECONDS_TO_END:
            _send(signal.SIGKILL, launcher, others)
        else:
            _send(signal.SIGTERM, set(launcher) - told, [] if launcher else set(others) - told)
            told |= set(launcher or others)
        time.sleep(NAP_SECONDS)


def _send(number: signal.Signals, groups: Iterable[int], processes: Iterable[int]) -> None:
    for send, numbers in ((os.killpg, groups), (os.kill, processes)):
        for each in numbers:
            with suppress(ProcessLookupError, PermissionError):
                send(each, number)
