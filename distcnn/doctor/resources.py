"""The host's cores, memory and shared memory, and the limits of a process."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distcnn.doctor.check import BAD, WARNING, Check, Finding, Options, Places
from distcnn.system.host import Cores, free_memory, oversubscription, threads_for_each, usable_cores
from distcnn.system.wording import counted

MIB = 2**20
BUSY = 1.5
"""A host is busy if its load exceeds this times its cores, plus 1."""
RANK_BYTES = 256 * MIB
"""A rank of the default run takes at most 143 MiB (docs/speed.md), without MPI's own memory."""
SHARED = Path("/dev/shm")
LEAST_SHARED_BYTES, SHARED_BYTES_PER_RANK, AMPLE_SHARED_BYTES = 18 * MIB, 17 * MIB, 65 * MIB
"""MPICH crashed in MPI_Init with 16 MiB; Open MPI takes 16 MiB per rank."""
LEAST_TO_START = {"NOFILE": 40, "FSIZE": 16 * MIB}
"""Limits below which MPICH with UCX crashed in MPI_Init."""

MORE_CORES = (
    "start fewer ranks, use fewer threads, request more cores, or bind ranks to more of them"
    " (srun --cpu-bind=none, mpirun --bind-to none)"
)
MORE_MEMORY = "request more (sbatch --mem), start fewer ranks, or set --data-memory"
MORE_SHARED = (
    "enlarge it (docker --shm-size=1g, --ipc=host), or remove what killed runs left there"
    " (launch/clean_shared_memory.py)"
)
RAISE = "raise it in the job script (launchers pass limits on), or ask the site"


@dataclass(frozen=True)
class Limit:
    """A soft limit: low if below ``warning``, too low if below ``bad``."""

    flag: str
    warning: int
    bad: int
    why: str
    unit: int = 1


LIMITS = {
    "NOFILE": Limit("-n", 256, 64, "open files: MPI needs several per rank"),
    "AS": Limit("-v", 4096 * MIB, RANK_BYTES, "MiB of address space: libraries reserve a lot", MIB),
    "NPROC": Limit("-u", 64, 0, "processes and threads of this user"),
    "FSIZE": Limit("-f", 64 * MIB, 16 * MIB, "MiB per file: checkpoints may not fit", MIB),
    "CPU": Limit("-t", 24 * 3600, 0, "seconds of CPU time, as on login nodes"),
    "MEMLOCK": Limit("-l", 64 * MIB, 0, "MiB of locked memory: InfiniBand needs it", MIB),
}


@dataclass(frozen=True)
class Resources:
    """What one rank may use.

    Args:
        cores: on which it may run.
        host_cores: number of cores of its host.
        load: the host's load average before the checks.
        threads: BLAS threads that it will use; 0: one for each core the rank may use.
        free: free bytes of memory; None: unknown.
        shared: free bytes of /dev/shm; None: no /dev/shm.
        shared_problem: why nothing can be written there.
        limits: soft limits by name; those not limited are left out.
    """

    cores: Cores
    host_cores: int
    load: float
    threads: int
    free: int | None
    shared: int | None
    shared_problem: str
    limits: Mapping[str, int]

    @property
    def mpich_dies(self) -> bool:
        """Whether MPICH would crash at its start."""
        too_small = self.shared is not None and self.shared < LEAST_SHARED_BYTES
        return too_small or any(self.limits.get(k, v) < v for k, v in LEAST_TO_START.items())


def collect(options: Options) -> Resources:
    """Collect the facts of this process and its host."""
    shared, problem = shared_memory()
    return Resources(
        usable_cores(socket.gethostname()),
        os.cpu_count() or 1,
        os.getloadavg()[0],
        options.threads,
        free_memory(),
        shared,
        problem,
        soft_limits(),
    )


def evaluate(places: Places, everyone: Mapping[int, Resources]) -> Iterator[Finding]:
    """Cores of all ranks, load and memory by host, limits by rank."""
    first = next(iter(everyone.values()))  # before MPI starts, the only one known
    cores = [everyone.get(rank, first).cores for rank in places.hosts]
    threads = first.threads or threads_for_each(cores)
    crowded = oversubscription(cores, threads)
    if crowded:
        yield Finding.warning("cores", f"oversubscribed: {crowded}", MORE_CORES)
    else:
        per_rank = f"{counted(threads, 'thread')} per rank"
        yield Finding.good("cores", f"enough for {counted(len(cores), 'rank')}, {per_rank}")
    found: dict[int, list[Finding]] = {}
    for ranks in places.ranks_of_host.values():
        known = [rank for rank in ranks if rank in everyone]
        for rank in known:
            of_host = _of_host(everyone[known[0]], len(ranks))
            found[rank] = [*of_host, *_limits(everyone[rank], places.total)]
    yield from places.gathered(found)


def _of_host(facts: Resources, ranks: int) -> Iterator[Finding]:
    load, cores = facts.load, facts.host_cores
    if load > BUSY * cores + 1:
        text = f"high load on this host before the checks: {load:.1f} on {counted(cores, 'core')}"
        remedy = "run top to see what uses the CPUs, or request a whole host (sbatch --exclusive)"
        yield Finding.warning("load", text, remedy)
    else:
        yield Finding.good("load", f"{'low' if load < cores / 2 else 'moderate'} load on this host")
    wanted = counted(ranks, "rank")
    if facts.free is not None and facts.free < ranks * RANK_BYTES:
        state = BAD if facts.free < RANK_BYTES else WARNING
        text = f"{facts.free // MIB:,} MiB free, for {wanted} of about {RANK_BYTES // MIB} MiB"
        yield Finding("memory", state, text, MORE_MEMORY)
    elif facts.free is not None:
        yield Finding.good("memory", f"about {facts.free / 2**30:.0f} GiB free")
    if facts.shared is None or ranks == 1:
        return
    text = f"{SHARED}: {facts.shared / MIB:,.0f} MiB free for {wanted}"
    if facts.shared_problem:
        text = f"{SHARED}, which MPI needs, cannot be written ({facts.shared_problem})"
        yield Finding.bad("shared", text, MORE_SHARED)
    elif facts.shared < LEAST_SHARED_BYTES:
        yield Finding.bad("shared", f"{text}: MPI may not start", MORE_SHARED)
    elif facts.shared < max(AMPLE_SHARED_BYTES, ranks * SHARED_BYTES_PER_RANK):
        yield Finding.warning("shared", f"{text}: MPI may fail or be slow", MORE_SHARED)
    else:
        yield Finding.good("shared", f"{SHARED} is large enough")


def _limits(facts: Resources, world_size: int) -> Iterator[Finding]:
    low = False
    for name, value in facts.limits.items():
        limit = LIMITS[name]
        least = max(limit.warning, 64 + 2 * world_size) if name == "NOFILE" else limit.warning
        if value < least:
            low = True
            text = f"only {value // limit.unit} {limit.why} (ulimit {limit.flag})"
            yield Finding("limits", BAD if value < limit.bad else WARNING, text, RAISE)
    if not low:
        yield Finding.good("limits", "ulimits are sufficient")


def soft_limits() -> dict[str, int]:
    """The soft limits of this process, by their name in ``LIMITS``."""
    import resource

    limited = [name for name in LIMITS if name != "MEMLOCK" or Path("/dev/infiniband").is_dir()]
    values = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in limited}
    return {name: value for name, value in values.items() if value != resource.RLIM_INFINITY}


def shared_memory(folder: Path = SHARED) -> tuple[int | None, str]:
    """Try to make a file in /dev/shm.

    Returns:
        Free bytes, None if the system has no /dev/shm; and why no file can be made, or "".
    """
    if not folder.is_dir():
        return None, ""
    name = folder / f".distcnn-doctor-{secrets.token_hex(8)}"
    try:
        name.touch(exist_ok=False)  # does not follow a link that another user put there
        name.unlink()
        room = os.statvfs(folder)
    except OSError as error:
        return 0, error.strerror or str(error)
    return room.f_bavail * room.f_frsize, ""


CHECK = Check("resources", collect, evaluate)
