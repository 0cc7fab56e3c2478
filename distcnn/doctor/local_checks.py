"""What each process can look at by itself, before MPI is started; and what happens where MPI cannot
be.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from distcnn.doctor import environment_variables, memory_limits, mpi_library, processors, software
from distcnn.doctor.check import Everyone, Facts
from distcnn.doctor.finding import WARNING, Finding, Places
from distcnn.doctor.options import Options
from distcnn.doctor.report import Report
from distcnn.system import launcher

SECONDS_FOR_SPEAKER = 2.0
"""A launcher may end all ranks when the first one leaves: those that do not print the report leave
later.
"""
SECONDS_FOR_LAUNCHER_TO_PRINT = 0.5
SECONDS_FOR_RANK_0 = 2.0
"""Of several hosts where MPI cannot be started, rank 0's speaks first: most launchers end the
others then.
"""

SECTIONS = (
    software.SECTION,
    environment_variables.SECTION,
    mpi_library.SECTION,
    processors.SECTION,
    memory_limits.SECTION,
)
"""In the order of the report."""
HOST = "host"
NOT_LOOKED_AT = Finding(
    "doctor",
    WARNING,
    "the rest was not looked at: ranks, clock, output, data, network, sums",
    "fix the problems above first",
)


@dataclass(frozen=True)
class Verdict:
    """What this process shall do: print ``report``, where it has one, ``leave``, and end with
    ``code``.
    """

    code: int
    report: Report | None
    leave: Callable[[], None]


def look_alone(options: Options) -> Facts:
    """All sections, in the order that looking needs: load before we make any, mpi4py before h5py,
    BLAS before its threads.
    """
    arguments = {processors.SECTION: (options,), environment_variables.SECTION: (options,)}
    order = (
        processors.SECTION,
        memory_limits.SECTION,
        mpi_library.SECTION,
        software.SECTION,
        environment_variables.SECTION,
    )
    return {HOST: socket.gethostname()} | {
        each.name: each.seen(*arguments.get(each, ())) for each in order
    }


def places_of(everyone: Everyone, world_size: int) -> Places:
    """Where those ranks run, of so many."""
    return Places({rank: facts[HOST] for rank, facts in sorted(everyone.items())}, world_size)


def declared_size() -> int:
    """How many processes the launcher started; 0 where it does not tell.

    Slurm counts other things where another launcher is inside it.
    """
    sizes = [each.world_size or 0 for each in launcher.declared(os.environ)]
    return sizes[0] if sizes else 0


def judge_alone(places: Places, everyone: Everyone) -> list[Finding]:
    """Of all ranks whose facts are here."""
    return [
        found
        for each in SECTIONS
        for found in each.judged(
            places, {rank: facts[each.name] for rank, facts in everyone.items()}
        )
    ]


def why_not(facts: Facts) -> str | None:
    """None, or why a process that saw this cannot join the others."""
    of_library = facts[mpi_library.SECTION.name]
    problem = software.why_not(facts[software.SECTION.name]) or mpi_library.why_not(of_library)
    if problem or not launcher.needs_mpi(os.environ) or mpi_library.is_open_mpi(of_library):
        return problem
    return memory_limits.why_not(facts[memory_limits.SECTION.name])


def can_start(here: Everyone) -> bool:
    """Whether all these processes can join one world."""
    families = {
        mpi_library.family(facts[mpi_library.SECTION.name].get("library", ""))
        for facts in here.values()
    }
    return len(families) == 1 and not any(why_not(facts) for facts in here.values())


def without_world(rank: int, here: Everyone, report: Report) -> Verdict:
    """Of processes that cannot all start MPI: the lowest rank of the host prints.

    A launcher of another MPI is every host's trouble alike, and rank 0's to tell.
    """
    everywhere = all(facts[mpi_library.SECTION.name].get("foreign") for facts in here.values())
    complete = not launcher.needs_mpi(os.environ) or 0 < declared_size() <= len(here)
    speaks = rank == min(here) and (rank == 0 or not everywhere)
    if speaks and rank:
        time.sleep(SECONDS_FOR_RANK_0)
    report.findings.append(NOT_LOOKED_AT)
    return apart(speaks, report, others_wait=not everywhere and not complete)


def apart(speaks: bool, report: Report, others_wait: bool = False) -> Verdict:
    """Of processes that found no world: one speaks, the others leave after it.

    ``others_wait``: ranks of other hosts may be waiting for this one in MPI_Init, and a launcher
    ends them only for a signal.
    """

    def leave() -> None:
        if launcher.needs_mpi(os.environ):
            time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT if speaks else SECONDS_FOR_SPEAKER)
        if others_wait:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    return Verdict(1, report if speaks else None, leave)
