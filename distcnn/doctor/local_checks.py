"""The checks that each process makes alone before MPI starts, and whether MPI can start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from distcnn.doctor import mpi_library, resources, software
from distcnn.doctor.check import Check, Failed, Finding, Options, Places
from distcnn.system import launcher

CHECKS: tuple[Check[Any], ...] = (software.CHECK, mpi_library.CHECK, resources.CHECK)
"""In the order of the report. Facts are collected in reverse order: the host's load before
libraries are loaded, and mpi4py before h5py.
"""
NOT_CHECKED = Finding.warning(
    "doctor",
    "not checked: ranks, clock, output, data, network, sums",
    "fix the problems above first",
)

Facts = Mapping[str, Any]
"""Facts of one rank, by name of the check."""


def collect(options: Options) -> Facts:
    """Make this process's checks."""
    return {check.name: check.collected(options) for check in reversed(CHECKS)}


def evaluate(places: Places, everyone: Mapping[int, Facts]) -> list[Finding]:
    """Evaluate what ranks collected."""
    return [
        finding
        for check in CHECKS
        for finding in check.evaluated(
            places, {rank: facts[check.name] for rank, facts in everyone.items()}
        )
    ]


def can_continue(facts: Facts) -> bool:
    """Whether this process has NumPy and, if it needs MPI, can start it."""
    found, library, machine = (facts[check.name] for check in CHECKS)
    if isinstance(found, Failed) or isinstance(library, Failed) or not found.has_numpy:
        return False
    mpich_dies = (
        library.several
        and not isinstance(machine, Failed)
        and mpi_library.family(library.name) != mpi_library.OPEN_MPI
        and machine.mpich_dies
    )
    return not (library.why_not or mpich_dies)


def places_before_mpi() -> Places:
    """Where the ranks run, as far as the launcher's variables say."""
    host, rank = socket.gethostname(), launcher.declared_rank(os.environ)
    world_size = launcher.declared_size(os.environ)
    place = launcher.declared_place(os.environ)
    all_here = place is not None and place.local_size == world_size
    return Places(dict.fromkeys(range(world_size) if all_here else [rank], host), world_size)
