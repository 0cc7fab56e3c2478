"""Whether a person watches: the terminal that shows this process's output, directly or through the
launcher. Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from distcnn.system import launcher

LAUNCHERS = {
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
    "orterun",
    "orted",
    "prterun",
    "prte",
    "prted",
}
"""Programs between the ranks and the terminal, as the kernel names them."""
CHANGE_OUTPUT = (
    "-prepend",
    "--prepend",
    "-outfile",
    "-errfile",
    "--output",
    "-output",
    "--tag",
    "-tag",
    "--timestamp",
    "--xml",
)
"""Options of theirs, by how they begin, that label lines or send them elsewhere: a progress bar
would only spoil those.
"""
USUAL_COLUMNS = 80


def watched_columns(environment: Mapping[str, str] = os.environ) -> int | None:
    """The width of the terminal that shows standard output; None where it goes elsewhere, or nobody
    can tell.

    Under a launcher standard output is a pipe to it, or a terminal of its own making: what counts
    is the launcher's standard output.
    """
    columns: int | None
    if not launcher.needs_mpi(environment) and sys.stdout.isatty():
        columns = _columns(sys.stdout.fileno())
    elif launcher.declared(environment):
        columns = _columns_of_launcher(_launcher_process(launcher.launching_process()))
    else:
        columns = None
    given = environment.get("COLUMNS", "")
    return (
        int(given)
        if columns is not None and given.isascii() and given.isdigit() and int(given)
        else columns
    )


def _columns(descriptor: int) -> int:
    """A terminal's width; some say 0, or do not know."""
    try:
        return os.get_terminal_size(descriptor).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def _columns_of_launcher(pid: int | None) -> int | None:
    output = Path(f"/proc/{pid}/fd/1")
    try:
        if pid is None or not str(output.readlink()).startswith("/dev/") or _changes_output(pid):
            return None
        descriptor = os.open(output, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # another user's process, or no /proc
        return None
    try:
        return _columns(descriptor) if os.isatty(descriptor) else None
    finally:
        os.close(descriptor)


def _launcher_process(pid: int) -> int | None:
    """The launcher that was started by hand: the last of the launcher's processes, from ``pid``
    upwards.
    """
    found = None
    while pid > 1:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        except OSError:
            return None
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if status.get("Name") not in LAUNCHERS:
            break
        found, pid = pid, int(status["PPid"])
    return found


def _changes_output(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    options = takewhile(lambda word: not Path(word).name.startswith("python"), words)
    return any(word == "-l" or word.startswith(CHANGE_OUTPUT) for word in options)
