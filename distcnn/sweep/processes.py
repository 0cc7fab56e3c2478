"""The processes of a point: started in a session of their own, ended whole.

A launcher's children may leave its process group, and outlive it. All of them inherit a mark in their environment, by which they are
found in /proc; where there is no /proc, the group is all that can be ended. What runs on other hosts is the launcher's to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

MARK = "DISTCNN_SWEEP"
"""In the environment of all processes of a sweep: its directory."""
SECONDS_TO_END = 5.0
"""After SIGTERM, which a launcher passes on; then SIGKILL."""
NAP_SECONDS = 0.05


def start(command: Sequence[str], mark: str, output: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``command``, which writes all it says to ``output``. ``OSError`` when it cannot be started."""
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
            if entry in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end_all(mark: str, process: subprocess.Popen[bytes] | None = None, hurry: Callable[[], bool] = lambda: False) -> None:
    """End ``process``, its group and everything with ``mark``: politely, then not. Returns when none is left."""
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_END), (signal.SIGKILL, SECONDS_TO_END)):
        _send(number, mark, process)
        end = time.monotonic() + seconds
        while _left(mark, process):
            if time.monotonic() > end or (number == signal.SIGTERM and hurry()):
                break
            time.sleep(NAP_SECONDS)
        else:
            return


def _send(number: signal.Signals, mark: str, process: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM goes to the launcher, which ends its ranks in its own way; to all others where it is gone, as SIGKILL does anyway."""
    alive = process is not None and process.poll() is None
    if process is not None and (alive or number == signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    if not alive or number == signal.SIGKILL:
        for pid in marked(mark):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _left(mark: str, process: subprocess.Popen[bytes] | None) -> bool:
    return (process is not None and process.poll() is None) or bool(marked(mark))
