"""Failures before MPI has started: an import that fails on one rank, on one host, or on all.

Without MPI the processes of a host agree by locks on files (``host_election``) that one of them
reports. Some launchers (Hydra) let the other ranks wait in MPI_Init forever for one that left with
an exit code, but not for one that a signal killed. Standard library only.
"""

from __future__ import annotations

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
SECONDS_FOR_REPORTER = 2.0
"""A launcher ends all ranks when the first one leaves, and may drop output that it has not read
yet: ranks that do not report leave later.
"""
SECONDS_FOR_OTHERS = 4.0
"""How long the reporter waits until the other ranks of its host have come as far: one that came
after it left would report again.
"""


def report_early_failures() -> None:
    """Report uncaught exceptions with rank and host from now on, once per host."""
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end_by_signal(signal.SIGINT)
    several = launcher.needs_mpi(os.environ)
    report = f"start-{launcher.launch_name()}"
    reports = not several or claim(report)
    note_arrival()  # only now, because it lets the reporter leave
    if not reports:
        _wait_while(lambda: not claimed() or report in claimed())
        _end_by_signal()
    rank = launcher.declared_rank(os.environ)
    text = "".join(traceback.format_exception(kind, error, trace))
    tell(
        f"distcnn: rank {rank} failed on host {socket.gethostname()} (process {os.getpid()}),"
        f" starting:\n{text.rstrip()}"
    )
    if several:
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
        _wait_for_others()
        _end_by_signal()


def note_arrival() -> None:
    """Note that this rank's imports are done or have failed: a reporter need not wait for it."""
    place = launcher.declared_place(os.environ)
    if place is not None and launcher.needs_mpi(os.environ):
        claim(_arrival(place.local_rank))


def _arrival(local_rank: int) -> str:
    return f"arrival-{launcher.launch_name()}-{local_rank}"


def _wait_for_others() -> None:
    place = launcher.declared_place(os.environ)
    if place is None or place.local_size is None or not claimed():
        time.sleep(SECONDS_FOR_REPORTER - SECONDS_FOR_LAUNCHER_TO_PRINT)
        return
    everyone = {_arrival(rank) for rank in range(place.local_size)}
    _wait_while(lambda: not everyone <= claimed())


def _wait_while(holds: Callable[[], bool], seconds: float = SECONDS_FOR_OTHERS) -> None:
    end = time.monotonic() + seconds
    while holds() and time.monotonic() < end:
        time.sleep(0.02)


def end_before_start(
    text: str, others_wait: bool = True, tell: Callable[[str], None] = tell
) -> None:
    """Report why this process cannot open its communicator, as the last thing it does.

    Returns if all ranks of the launch end here, so that each may leave with an exit code; else it
    ends this process by a signal.

    Args:
        text: the report, printed by one process of this host.
        others_wait: whether other ranks may be waiting in MPI_Init. If not, every process is a
            world of its own, and rank 0 alone reports.
        tell: prints the report.
    """
    if not launcher.needs_mpi(os.environ):
        tell(text)
        return
    start, rank = launcher.launch_name(), launcher.declared_rank(os.environ)
    if not others_wait:
        if rank == 0:
            tell(text)
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT if rank == 0 else SECONDS_FOR_OTHERS)
        return
    claim(f"failed-{start}-{rank}")
    if not claim(f"start-{start}"):
        _wait_while(lambda: f"start-{start}" in claimed(), 2 * SECONDS_FOR_OTHERS)
        return
    tell(text)
    time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
    world_size = max((each.world_size or 0 for each in launcher.declared(os.environ)), default=0)
    everyone = {f"failed-{start}-{other}" for other in range(world_size)}
    _wait_while(lambda: not everyone <= claimed(), SECONDS_FOR_REPORTER)
    if not everyone or not everyone <= claimed():
        _end_by_signal()


def start_report() -> Path | None:
    """The file that exists once a process of this launch has reported that it could not start."""
    folder = private_folder()
    return folder and folder / f"start-{launcher.launch_name()}"


def _end_by_signal(number: int = signal.SIGTERM) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
