"""A rank whose launcher has gone ends: nobody else would end it, hear it, or start its missing
neighbours.

A launcher ends its ranks whenever it ends itself, unless its process on this host is killed
outright. MPI does not notice that: ranks that share memory would train on, unseen, and mpirun would
wait for them.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distcnn.fault_tolerance.exit_note import note_exit
from distcnn.fault_tolerance.watchdog import EXIT_STALLED
from distcnn.system import launcher
from distcnn.system.console import tell

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends this process when its parent ends."""
SECONDS_BETWEEN_LOOKS = 1.0
"""Where the system cannot wait for a process that is not a child."""


def end_with_launcher(name: str) -> None:
    """From now on this process ends, with an error and ``EXIT_STALLED``, as soon as the launcher's
    process on this host has gone.

    Nothing happens without a launcher, nor under Slurm's own, which ends what its daemon leaves
    behind.
    """
    process = _watched_launcher()
    if process:
        arguments = (name, process, _status(process, "Name") or "the launcher")
        with suppress(RuntimeError):  # no more threads: the watchdog, which needs one, will say so
            threading.Thread(
                target=_end_after, args=arguments, name="launcher's end", daemon=True
            ).start()


@contextmanager
def killed_with_launcher() -> Iterator[None]:
    """While it is entered, the kernel kills this process when the launcher's ends: for MPI_Init, in
    which no thread of Python's runs.

    Only where the launcher is the parent and has a single thread: the kernel sends the signal when
    the thread ends that started us.
    """
    process = _watched_launcher()
    by_kernel = (
        process == os.getppid() and sys.platform == "linux" and _status(process, "Threads") == "1"
    )
    if by_kernel:
        signal_at_parents_end(signal.SIGKILL)
    try:
        yield
    finally:
        if by_kernel:
            signal_at_parents_end(0)


def signal_at_parents_end(number: int) -> None:
    """Ask the kernel for signal ``number`` (0: none) when this process's parent ends; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def _watched_launcher() -> int:
    """The launcher's process; 0 where there is none to watch."""
    process = launcher.launching_process()
    seen = (
        launcher.declared(os.environ) and process > 1 and _status(process, "Name") != "slurmstepd"
    )
    return process if seen else 0


def _end_after(name: str, process: int, program: str) -> None:
    _wait_for_end_of(process)
    rank, host = launcher.declared_rank(os.environ), socket.gethostname()
    tell(
        f"{name}: error: rank {rank} on host {host} ends: {program} (process {process}), which"
        " launched it, is gone; resume the run"
    )
    note_exit(EXIT_STALLED)
    os._exit(EXIT_STALLED)


def _wait_for_end_of(process: int) -> None:
    """Return when ``process``, no child of this one, has ended, reaped or not."""
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel before 5.3, or a container that forbids it
            ended = select.poll()
            ended.register(os.pidfd_open(process), select.POLLIN)
            ended.poll()
            return
    while _exists(process):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _status(process: int, name: str) -> str:
    """A line of proc(5), /proc/pid/status; empty where it cannot be read."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), ""
    )
