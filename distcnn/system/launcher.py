"""Launchers: the environment variables of the processes they start, read before MPI is loaded.

Each launcher (mpirun, srun ...) gives its processes their number. This decides whether MPI is
needed at all, and is the only way to notice a launcher of another MPI than the library, under which
every process would be rank 0 of 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distcnn.system.files import read_entry
from distcnn.system.wording import counted


class Variables(NamedTuple):
    """The environment variables in which a launcher numbers its processes."""

    size: str
    rank: str
    local_rank: str
    local_size: str


def _of_world(name: str) -> Variables:
    whats = ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")
    return Variables(*(f"{name}_COMM_WORLD_{what}" for what in whats))


LAUNCHERS = (
    _of_world("OMPI"),  # Open MPI's mpirun
    # Hydra, which is MPICH's and Intel's mpirun; srun --mpi=pmi2
    Variables("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *(_of_world("MV2"), _of_world("MVP")),  # MVAPICH 2; 3 and later
    # HPE Cray
    Variables("PALS_SIZE", "PALS_RANKID", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    Variables("FLUX_JOB_SIZE", "FLUX_TASK_RANK", "FLUX_TASK_LOCAL_ID", ""),
    # srun, with any --mpi. Last, because mpirun may run inside a Slurm step
    Variables("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)
REMEDY = (
    "use the mpirun of that library (in the same environment or module), or srun with its plugin "
    "(--mpi=pmi2 for MPICH, --mpi=pmix for Open MPI)"
)
MOST_GENERATIONS = 20


@dataclass(frozen=True)
class Declared:
    """The declaration of one launcher; ``world_size`` is None if it gives only the rank."""

    variable: str
    world_size: int | None
    rank: int

    @property
    def several(self) -> bool:
        return (self.world_size or 0) > 1 or self.rank > 0


@dataclass(frozen=True)
class Place:
    """The place of a process on its host; ``local_size`` is None if unknown."""

    local_rank: int
    local_size: int | None


def declared(environment: Mapping[str, str]) -> list[Declared]:
    """All declarations of launchers in ``environment``."""
    found = []
    for variables in _launchers(environment):
        size, rank = (environment.get(name, "") for name in variables[:2])
        if size.isdigit() and rank.isdigit():
            found.append(Declared(variables.size, int(size), int(rank)))
    rank = environment.get("PMIX_RANK", "")
    return [*found, Declared("PMIX_RANK", None, int(rank))] if rank.isdigit() else found


def declared_rank(environment: Mapping[str, str]) -> int:
    """The rank before MPI has started; 0 without a launcher."""
    return max((found.rank for found in declared(environment)), default=0)


def declared_size(environment: Mapping[str, str]) -> int:
    """The number of processes that the innermost launcher started; 0 if unknown."""
    return next((found.world_size for found in declared(environment) if found.world_size), 0)


def declared_place(environment: Mapping[str, str]) -> Place | None:
    """The place of this process on its host, if a launcher declares it."""
    for variables in _launchers(environment):
        rank, size = (environment.get(name, "") for name in variables[2:])
        if variables.rank == "SLURM_PROCID":
            sizes, node = tasks_per_node(size), environment.get("SLURM_NODEID", "")
            known = node.isdigit() and int(node) < len(sizes)
            size = str(sizes[int(node)]) if known else ""
        if rank.isdigit():
            return Place(int(rank), int(size) if size.isdigit() else None)
    return None


def needs_mpi(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started several processes; one (``srun --pty bash``) needs no MPI."""
    found = declared(environment)
    return any(launch.several for launch in found) or (
        bool(found) and all(launch.world_size is None for launch in found)
    )


def starting_words(world_size: int, environment: Mapping[str, str]) -> list[str]:
    """How to start ``world_size`` ranks again, as in ``mpirun -n 4``; empty for one rank."""
    if world_size == 1:
        return []
    by_mpirun = any(name in environment for name in ("OMPI_COMM_WORLD_SIZE", "MPI_LOCALRANKID"))
    by_slurm = _is_slurm_step(environment) and not by_mpirun
    return ["srun" if by_slurm else "mpirun", "-n", str(world_size)]


def foreign_library(library: str, environment: Mapping[str, str]) -> str | None:
    """The error if Open MPI's mpirun started an MPICH ``library``: it would crash in MPI_Init."""
    by_openmpi = "OMPI_COMM_WORLD_SIZE" in environment and "PMI_SIZE" not in environment
    if by_openmpi and ("MPICH" in library or "Intel" in library):
        return (
            f"the launcher is Open MPI's (it started {environment['OMPI_COMM_WORLD_SIZE']}"
            f" processes, OMPI_COMM_WORLD_SIZE), but mpi4py loaded {library}: {REMEDY}"
        )
    return None


def mismatch(world_size: int, library: str, environment: Mapping[str, str]) -> str | None:
    """The error if MPI, whose ``library`` is named, sees one rank and a launcher declares several.

    Larger sizes are not compared: under mpirun in an allocation, Slurm counts the hosts' proxies.
    """
    several = [launch for launch in declared(environment) if launch.several]
    if world_size > 1 or not several:
        return None
    first = several[0]
    count = counted(first.world_size, "process") if first.world_size else "several processes"
    return (
        f"the launcher started {count} ({first.variable}, rank {first.rank}), but MPI sees 1 rank:"
        f" the launcher belongs to another MPI than {library}, which mpi4py loaded: {REMEDY}"
    )


def tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's short form: "2(x3),1" is 2, 2, 2, 1. Empty if ``text`` is something else."""
    found = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(found):
        return []
    return [int(match[1]) for match in found if match for _ in range(int(match[2] or 1))]


def launching_process() -> int:
    """The launcher's process on this host, mpirun or one of its daemons: the nearest ancestor
    without this rank's variables. 0 in a container that does not see it.
    """
    mine, process = declared(os.environ), os.getppid()
    for _ in range(MOST_GENERATIONS):
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
        except OSError:  # another user's, or there is no /proc
            break
        pairs = (pair.partition("=") for pair in environment.split("\0"))
        parent = int(process_status(process, "PPid") or 0)
        if parent <= 1 or declared({key: value for key, _, value in pairs}) != mine:
            break
        process = parent
    return process


def launch_name() -> str:
    """A name that exactly the processes of one launch share on this host. Process numbers are
    reused, so it contains the start time of the launcher's process.
    """
    process = launching_process()
    parts = [str(process)]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2]
        parts.append(stat.split()[19])  # when it started, see proc(5)
    return "-".join(parts)


def process_status(process: int, name: str) -> str:
    """An entry of /proc/<process>/status, see proc(5); empty if it cannot be read."""
    return read_entry(Path(f"/proc/{process}/status"), name)


def _launchers(environment: Mapping[str, str]) -> tuple[Variables, ...]:
    # A batch script has Slurm's variables without srun.
    return LAUNCHERS if _is_slurm_step(environment) else LAUNCHERS[:-1]


def _is_slurm_step(environment: Mapping[str, str]) -> bool:
    return environment.get("SLURM_STEP_ID", "").isdigit()
