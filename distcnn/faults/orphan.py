"""A rank whose launcher has gone ends: nobody else would end it, hear it, or start its missing neighbours.

A launcher ends its ranks whenever it ends itself, unless its process on this host is killed outright. MPI does not notice that: ranks
that share memory would train on, unseen, and mpirun would wait for them.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from distcnn import launcher
from distcnn.console import tell
from distcnn.faults.exit_note import note_exit
from distcnn.faults.watchdog import EXIT_STALLED

SECONDS_BETWEEN_LOOKS = 1.0
"""Where the system cannot wait for a process that is not a child."""


def end_with_launcher(name: str) -> None:
    """From now on this process ends, with an error and ``EXIT_STALLED``, as soon as the launcher's process on this host has gone.

    Nothing happens without a launcher, nor under Slurm's own, which ends what its daemon leaves behind.
    """
    process = launcher.launching_process()
    if not launcher.declared(os.environ) or process <= 1 or (program := _program(process)) == "slurmstepd":
        return
    with suppress(RuntimeError):  # no more threads: the watchdog, which needs one, will say so
        threading.Thread(target=_end_after, args=(name, process, program), name="launcher's end", daemon=True).start()


def _end_after(name: str, process: int, program: str) -> None:
    _wait_for_end_of(process)
    rank, host = launcher.declared_rank(os.environ), socket.gethostname()
    tell(f"{name}: error: rank {rank} on host {host} ends: {program} (process {process}), which launched it, is gone; resume the run")
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


def _program(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "the launcher"
