"""Failures before MPI has started: an import that fails on one rank, on one host, or on all.

Without MPI, the processes of a host use file locks (``host_election``) to choose the one that
reports. With some launchers (Hydra) the other ranks wait in MPI_Init forever for one that exited
with a code, but not for one that a signal killed. Standard library only.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from distcnn.fault_tolerance.host_election import claim, claimed, private_folder
from distcnn.system import launcher
from distcnn.system.console import tell

SECONDS_FOR_LAUNCHER_TO_PRINT = 0.5
"""A launcher ends all ranks when the first one exits, and may drop unread output."""
SECONDS_FOR_OTHERS = 2.0
"""How long the reporter waits for the other ranks of its launch to fail likewise."""
SECONDS_FOR_REPORTER = 8.0
"""How long the others wait for the reporter."""


def report_early_failures() -> None:
    """Report uncaught exceptions with rank and host from now on, once per host."""
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end_by_signal(signal.SIGINT)
    rank = launcher.declared_rank(os.environ)
    text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
    where = f"on host {socket.gethostname()} (process {os.getpid()}), starting"
    end_before_start(f"distcnn: rank {rank} failed {where}:\n{text}")


def end_before_start(
    text: str, others_wait: bool = True, tell: Callable[[str], None] = tell
) -> None:
    """Report (``tell``) why this process cannot open its communicator, once for each host.

    Returns if all ranks of the launch end here, so that each may exit with a code; else it ends
    this process by a signal. ``others_wait``: whether other ranks may be waiting in MPI_Init. If
    not, every process is a world of its own, and only rank 0 reports.
    """
    if not launcher.needs_mpi(os.environ):
        tell(text)
        return
    start, rank = launcher.launch_name(), launcher.declared_rank(os.environ)
    if not others_wait:
        if rank == 0:
            tell(text)
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT if rank == 0 else 2 * SECONDS_FOR_OTHERS)
        return
    claim(f"failed-{start}-{rank}")
    if not claim(f"start-{start}"):
        _wait_for(lambda: f"start-{start}" not in claimed(), SECONDS_FOR_REPORTER)
        return
    tell(text)
    time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
    everyone = {f"failed-{start}-{other}" for other in range(launcher.declared_size(os.environ))}
    if not everyone or not _wait_for(lambda: everyone <= claimed(), SECONDS_FOR_OTHERS):
        _end_by_signal()


def start_report() -> Path | None:
    """The file that exists once a process of this launch has reported that it could not start."""
    folder = private_folder()
    return folder and folder / f"start-{launcher.launch_name()}"


def _wait_for(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def _end_by_signal(number: int = signal.SIGTERM) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
