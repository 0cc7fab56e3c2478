"""What the launcher says in the environment, and which process it is, before any MPI is loaded.

Each launcher (mpirun, srun ...) tells the processes it starts how many they are. That decides
whether MPI is needed at all, and it is the only way to notice a launcher of another MPI than the
library's, under which every process silently believes that it is rank 0 of 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.system.wording import counted

LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI's mpirun
    ("PMI_SIZE", "PMI_RANK"),  # MPICH's and Intel's Hydra, srun --mpi=pmi2
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),  # MVAPICH2
    ("MVP_COMM_WORLD_SIZE", "MVP_COMM_WORLD_RANK"),  # MVAPICH 3 and later
    ("PALS_SIZE", "PALS_RANKID"),  # HPE Cray
    ("FLUX_JOB_SIZE", "FLUX_TASK_RANK"),  # Flux
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # srun, whichever --mpi
)
"""(size variable, rank variable): a size counts only where its rank is there too."""

LOCAL_VARIABLES = (
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI's mpirun
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH's and Intel's Hydra
    ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),  # MVAPICH2
    ("MVP_COMM_WORLD_LOCAL_RANK", "MVP_COMM_WORLD_LOCAL_SIZE"),  # MVAPICH 3 and later
    ("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),  # HPE Cray
    ("FLUX_TASK_LOCAL_ID", ""),  # Flux
    ("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),  # srun, whichever --mpi
)
"""(local rank's variable, local size's variable): the first whose rank is there counts, for mpirun
may run inside a step of Slurm's.
"""


@dataclass(frozen=True)
class Declared:
    """What one launcher variable declares: ``world_size`` is None where it tells only the rank."""

    variable: str
    world_size: int | None
    rank: int

    @property
    def several(self) -> bool:
        """Whether it declares more than this one process."""
        return (self.world_size or 0) > 1 or self.rank > 0


def declared(environment: Mapping[str, str]) -> list[Declared]:
    """All that launchers declare in ``environment``.

    Slurm's count only inside a step: a batch script has them without srun.
    """
    found = []
    for size_variable, rank_variable in LAUNCHERS:
        if size_variable.startswith("SLURM") and not environment.get("SLURM_STEP_ID", "").isdigit():
            continue
        size, rank = environment.get(size_variable, ""), environment.get(rank_variable, "")
        if size.isdigit() and rank.isdigit():
            found.append(Declared(size_variable, int(size), int(rank)))
    if environment.get("PMIX_RANK", "").isdigit():
        found.append(Declared("PMIX_RANK", None, int(environment["PMIX_RANK"])))
    return found


def needs_mpi(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started several processes, as far as the environment tells: only then is
    MPI loaded.

    One process under a launcher (``srun --pty bash`` is such a place) works alone, as it does
    without one.
    """
    found = declared(environment)
    sized = [each for each in found if each.world_size is not None]
    return any(each.several for each in found) or (bool(found) and not sized)


REMEDY = (
    "use the mpirun of that library (in the same environment or module), or srun with its plugin "
    "(--mpi=pmi2 for MPICH, --mpi=pmix for Open MPI)"
)


def starting_words(world_size: int, environment: Mapping[str, str]) -> list[str]:
    """How to start ``world_size`` ranks again, as far as the environment tells: ``mpirun -n 4``,
    ``srun -n 4``, nothing for one.
    """
    if world_size == 1:
        return []
    by_mpirun = any(name in environment for name in ("OMPI_COMM_WORLD_SIZE", "MPI_LOCALRANKID"))
    by_slurm = environment.get("SLURM_STEP_ID", "").isdigit() and not by_mpirun
    return ["srun" if by_slurm else "mpirun", "-n", str(world_size)]


def foreign_library(library: str, environment: Mapping[str, str]) -> str | None:
    """None, or what is wrong when Open MPI's mpirun started us but ``library`` (its version text)
    is an MPICH: it would die in MPI_Init.
    """
    if (
        "OMPI_COMM_WORLD_SIZE" in environment
        and "PMI_SIZE" not in environment
        and ("MPICH" in library or "Intel" in library)
    ):
        return (
            f"the launcher is Open MPI's (it started {environment['OMPI_COMM_WORLD_SIZE']}"
            f" processes, OMPI_COMM_WORLD_SIZE), but mpi4py loaded {library}: {REMEDY}"
        )
    return None


def mismatch(world_size: int, library: str, environment: Mapping[str, str]) -> str | None:
    """None, or what is wrong when a world of ``world_size`` ranks was found and a launcher declares
    otherwise.

    Sizes above 1 are not compared: under mpirun in an allocation Slurm counts the hosts' proxies.
    """
    if world_size > 1:
        return None
    for each in declared(environment):
        if each.several:
            count = (
                "several processes"
                if each.world_size is None
                else counted(each.world_size, "process")
            )
            return (
                f"the launcher started {count} ({each.variable}, rank {each.rank}), but MPI sees 1"
                f" rank: the launcher belongs to another MPI than {library}, which mpi4py loaded:"
                f" {REMEDY}"
            )
    return None


@dataclass(frozen=True)
class Place:
    """Where on its host a process stands: its ``local_rank`` of ``local_size`` processes, None
    where that is not told.
    """

    local_rank: int
    local_size: int | None


def declared_place(environment: Mapping[str, str]) -> Place | None:
    """What a launcher says of this process's place on its host, if any does."""
    for rank_variable, size_variable in LOCAL_VARIABLES:
        if rank_variable.startswith("SLURM") and not environment.get("SLURM_STEP_ID", "").isdigit():
            continue
        rank, size = environment.get(rank_variable, ""), environment.get(size_variable, "")
        if rank.isdigit():
            if size_variable == "SLURM_STEP_TASKS_PER_NODE":
                sizes, node = tasks_per_node(size), environment.get("SLURM_NODEID", "")
                return Place(
                    int(rank),
                    sizes[int(node)] if node.isdigit() and int(node) < len(sizes) else None,
                )
            return Place(int(rank), int(size) if size.isdigit() else None)
    return None


def tasks_per_node(text: str) -> list[int]:
    """Of each node, from Slurm's short form: "2(x3),1" is 2, 2, 2, 1.

    Empty where it is no such text.
    """
    found = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return (
        [int(each[1]) for each in found if each for _ in range(int(each[2] or 1))]
        if all(found)
        else []
    )


def declared_rank(environment: Mapping[str, str]) -> int:
    """The rank by the environment alone, 0 without a launcher: who may print before MPI is up."""
    return max((each.rank for each in declared(environment)), default=0)


MOST_GENERATIONS = 20


def launching_process() -> int:
    """The launcher's process on this host: the nearest ancestor that is not declared to be this
    rank, as shells and wrappers between are.

    It is mpirun's or a daemon of it; 0 in a container that does not see it.
    """
    mine, process = declared(os.environ), os.getppid()
    for _ in range(MOST_GENERATIONS):
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
            parent = int(_stat(process)[1])
        except (OSError, ValueError, IndexError):  # another user's, or there is no /proc
            break
        pairs = (each.partition("=") for each in environment.split("\0"))
        if parent <= 1 or declared({key: value for key, _, value in pairs}) != mine:
            break
        process = parent
    return process


def launch_name() -> str:
    """A name that the processes of one launcher share on this host, and no others: process numbers
    alone are used again.
    """
    process = launching_process()
    parts = [str(process)]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    with suppress(OSError, IndexError):
        parts.append(_stat(process)[19])  # when it started
    return "-".join(parts)


def _stat(process: int) -> list[str]:
    """What the kernel says of a process, from its state on: proc(5), /proc/pid/stat, from the third
    field.
    """
    return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
