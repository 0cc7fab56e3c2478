"""End a rank whose launcher is gone.

A launcher ends its ranks when it ends, unless its process on this host is killed outright. MPI does
not notice that: ranks that share memory would train on, and mpirun would wait for them.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from distcnn.distributed.communicator import note_exit
from distcnn.fault_tolerance.watchdog import EXIT_STALLED
from distcnn.system import launcher
from distcnn.system.console import tell

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that the kernel sends this process when its parent ends."""
SECONDS_BETWEEN_LOOKS = 0.5


def end_with_launcher(name: str) -> None:
    """End this process with an error and ``EXIT_STALLED`` as soon as its launcher is gone."""
    process = _watched_launcher()
    program = launcher.process_status(process, "Name") or "the launcher"

    def end_after_it() -> None:
        while _runs(process):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        rank, host = launcher.declared_rank(os.environ), socket.gethostname()
        tell(
            f"{name}: error: rank {rank} on host {host} ends because {program}"
            f" (process {process}), which launched it, has ended; resume the run"
        )
        note_exit(EXIT_STALLED)
        os._exit(EXIT_STALLED)

    if process:
        with suppress(RuntimeError):  # no more threads: the watchdog, which needs one, reports it
            threading.Thread(target=end_after_it, name="launcher's end", daemon=True).start()


@contextmanager
def killed_with_launcher() -> Iterator[None]:
    """Let the kernel kill this process with its launcher: in MPI_Init no Python thread runs."""
    process = _watched_launcher()
    # if the parent has several threads, the kernel means the end of the one that started this
    by_kernel = process == os.getppid() and launcher.process_status(process, "Threads") == "1"
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
    """The launcher's process; 0 without one, or under Slurm's own, which ends the ranks itself."""
    process = launcher.launching_process()
    by_slurm = launcher.process_status(process, "Name") == "slurmstepd"
    return process if launcher.declared(os.environ) and process > 1 and not by_slurm else 0


def _runs(process: int) -> bool:
    """Whether it exists and is not a zombie."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return not launcher.process_status(process, "State").startswith("Z")
