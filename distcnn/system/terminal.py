"""The terminal that shows this process's output, directly or through the launcher, if any."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from distcnn.system import launcher

LAUNCHERS = ("mpirun", "mpiexec", "hydra_", "orte", "prte")
"""How the names of the programs between the ranks and the terminal begin: also mpirun.mpich of
Debian, mpiexec.hydra and hydra_bstrap_proxy of Intel, orted and prted of Open MPI.
"""
CHANGE_OUTPUT = (
    *("-prepend", "--prepend", "-outfile", "-errfile", "--output", "-output"),
    *("--tag", "-tag", "--timestamp", "--xml"),
)
"""Beginnings of their options that label or redirect lines: these would garble a progress bar."""
USUAL_COLUMNS = 80


def watched_columns(environment: Mapping[str, str] = os.environ) -> int | None:
    """The width of the terminal that shows standard output; None if there is none. Under a
    launcher, which takes the ranks' output, its own standard output counts.
    """
    columns = None
    if not launcher.needs_mpi(environment) and sys.stdout.isatty():
        columns = _columns(sys.stdout.fileno())
    elif launcher.declared(environment):
        columns = _columns_of_launcher(launcher.launching_process())
    given = environment.get("COLUMNS", "")
    if columns is not None and given.isascii() and given.isdigit() and int(given):
        return int(given)
    return columns


def _columns(descriptor: int) -> int:
    """A terminal's width; some report 0, or no width."""
    with suppress(OSError):
        return os.get_terminal_size(descriptor).columns or USUAL_COLUMNS
    return USUAL_COLUMNS


def _columns_of_launcher(process: int) -> int | None:
    """Of the last launcher among ``process`` and its ancestors: the one that a person started."""
    found = None
    while process > 1 and launcher.process_status(process, "Name").startswith(LAUNCHERS):
        found, process = process, int(launcher.process_status(process, "PPid") or 0)
    output = Path(f"/proc/{found}/fd/1")
    try:
        if not str(output.readlink()).startswith("/dev/") or _changes_output(f"/proc/{found}"):
            return None
        descriptor = os.open(output, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # another user's process, no launcher, or no /proc
        return None
    try:
        return _columns(descriptor) if os.isatty(descriptor) else None
    finally:
        os.close(descriptor)


def _changes_output(process: str) -> bool:
    words = Path(process, "cmdline").read_text(errors="replace").split("\0")
    options = takewhile(lambda word: not Path(word).name.startswith("python"), words)
    return any(word == "-l" or word.startswith(CHANGE_OUTPUT) for word in options)
