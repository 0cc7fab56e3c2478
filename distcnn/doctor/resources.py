"""The host's load, memory and shared memory, and the limits of a process, before MPI starts."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distcnn.doctor.findings import BAD, GOOD, WARNING, Finding
from distcnn.system import launcher
from distcnn.system.host import free_memory
from distcnn.system.wording import counted

MIB = 2**20
BUSY = 1.5
"""A host is busy if its load exceeds this times its cores, plus 1."""
RANK_BYTES = 256 * MIB
"""A rank of the default run takes at most 143 MiB (docs/speed.md), without MPI's own memory."""
SHARED = Path("/dev/shm")
LEAST_SHARED_BYTES, SHARED_BYTES_PER_RANK, AMPLE_SHARED_BYTES = 18 * MIB, 17 * MIB, 65 * MIB
"""MPICH crashed in MPI_Init with 16 MiB; Open MPI takes 16 MiB per rank."""

MORE_MEMORY = "request more (sbatch --mem), start fewer ranks, or set --data-memory"
MORE_SHARED = (
    "enlarge it (docker --shm-size=1g, --ipc=host), or remove what killed runs left there"
    " (launch/clean_shared_memory.py)"
)
RAISE = "raise it in the job script (launchers pass limits on), or ask the site"

LIMITS: dict[str, tuple[str, int, int, int, str]] = {
    # Option of ulimit, unit, and in units: low if below the first, too low if below the second.
    # MPICH with UCX crashed in MPI_Init with fewer than 40 open files, or 16 MiB per file.
    "NOFILE": ("-n", 1, 256, 64, "open files: MPI needs several per rank"),
    "AS": ("-v", MIB, 4096, 256, "MiB of address space: libraries reserve a lot"),
    "NPROC": ("-u", 1, 64, 0, "processes and threads of this user"),
    "FSIZE": ("-f", MIB, 64, 16, "MiB per file: checkpoints may not fit"),
    "CPU": ("-t", 1, 24 * 3600, 0, "seconds of CPU time, as on login nodes"),
    "MEMLOCK": ("-l", MIB, 64, 0, "MiB of locked memory: InfiniBand needs it"),
}


def resources() -> Iterator[Finding]:
    """Load, memory and shared memory for the ranks of this host; the limits of this process."""
    place = launcher.declared_place(os.environ)
    ranks = (place and place.local_size) or 1
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * cores + 1:
        text = f"high load on this host before the checks: {load:.1f} on {counted(cores, 'core')}"
        remedy = "run top to see what uses the CPUs, or request a whole host (sbatch --exclusive)"
        yield Finding(WARNING, "load", text, remedy)
    else:
        level = "low" if load < cores / 2 else "moderate"
        yield Finding(GOOD, "load", f"{level} load on this host")
    free, wanted = free_memory(), counted(ranks, "rank")
    if free is not None and free < ranks * RANK_BYTES:
        state = BAD if free < RANK_BYTES else WARNING
        text = f"{free // MIB:,} MiB free, for {wanted} of about {RANK_BYTES // MIB} MiB"
        yield Finding(state, "memory", text, MORE_MEMORY)
    elif free is not None:
        yield Finding(GOOD, "memory", f"about {free / 2**30:.0f} GiB free")
    if ranks > 1 and SHARED.is_dir():
        try:
            yield shared_memory(free_space(SHARED), ranks)
        except OSError as error:
            text = f"{SHARED}, which MPI needs, cannot be written ({error.strerror})"
            yield Finding(BAD, "shared", text, MORE_SHARED)
    yield from _limits(launcher.declared_size(os.environ))


def shared_memory(free: int, ranks: int) -> Finding:
    """Whether ``free`` bytes of shared memory are enough for the ranks of a host."""
    text = f"{SHARED}: {free / MIB:,.0f} MiB free for {counted(ranks, 'rank')}"
    if free < LEAST_SHARED_BYTES:
        return Finding(BAD, "shared", f"{text}: MPI may not start", MORE_SHARED)
    if free < max(AMPLE_SHARED_BYTES, ranks * SHARED_BYTES_PER_RANK):
        return Finding(WARNING, "shared", f"{text}: MPI may fail or be slow", MORE_SHARED)
    return Finding(GOOD, "shared", f"{SHARED} is large enough")


def _limits(world_size: int) -> Iterator[Finding]:
    low = False
    for name, (option, unit, least, too_low, why) in LIMITS.items():
        value = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        unused = name == "MEMLOCK" and not Path("/dev/infiniband").is_dir()
        wanted = max(least, 64 + 2 * world_size) if name == "NOFILE" else least
        if value != resource.RLIM_INFINITY and value < wanted * unit and not unused:
            low = True
            state = BAD if value < too_low * unit else WARNING
            text = f"only {value // unit} {why} (ulimit {option})"
            yield Finding(state, "limits", text, RAISE)
    if not low:
        yield Finding(GOOD, "limits", "ulimits are sufficient")


def free_space(folder: Path, sample_bytes: int = 0) -> int:
    """Write and sync a temporary file in ``folder``; the free bytes there."""
    piece = bytes(MIB)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(sample_bytes // MIB):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        room = os.fstatvfs(file.fileno())
    return room.f_bavail * room.f_frsize
