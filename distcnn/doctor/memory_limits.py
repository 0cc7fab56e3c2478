"""Memory, the shared memory that MPI uses, and the limits of a process."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, count, gathered
from distcnn.fault_tolerance import leftovers
from distcnn.system.cores import CGROUPS
from distcnn.system.host_memory import OWN_GROUPS, group_limits, memory_info
from distcnn.system.wording import counted

MIB = 2**20
RANK_BYTES = 256 * MIB
"""A rank of the default run has 143 MiB at most (docs/speed.md), MPI's own aside."""
SHARED = Path("/dev/shm")
LEAST_SHARED_BYTES, SHARED_BYTES_A_RANK, AMPLE_SHARED_BYTES = 18 * MIB, 17 * MIB, 64 * MIB
"""MPICH was seen to die in MPI_Init with 16 MiB, and to take 4 for 4 ranks and more as it goes;
Open MPI takes 16 MiB for each rank.
"""
LEAST_FILES_TO_START, LEAST_FILES, AMPLE_FILES, FILES_A_RANK = 40, 64, 256, 2
LEAST_ADDRESSES = 4096 * MIB
LEAST_STACK = MIB
LEAST_PROCESSES = 64
LEAST_CPU_SECONDS = 24 * 3600
LEAST_FILE_BYTES, LEAST_FILE_BYTES_TO_START = 64 * MIB, 16 * MIB

RAISE = (
    "raise it in the job script (ulimit), or ask the site: launchers pass on the limits of the"
    " shell or of Slurm's daemon"
)


def look() -> Facts:
    """What is free, and what is limited (None: no limit)."""
    return {
        "free": memory_info("MemAvailable"),
        "group_free": group_memory(),
        "shared": shared_memory(),
        "limits": limits(),
        "network_card": Path("/dev/infiniband").is_dir(),
    }


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Memory host by host, limits rank by rank."""
    of_hosts: dict[int, list[Finding]] = {}
    for ranks in places.ranks_of_host.values():
        for rank in (each for each in ranks if each in everyone):
            of_hosts[rank] = [
                *_memory(everyone[rank], len(ranks)),
                *_shared(everyone[rank], len(ranks)),
            ]
    of_ranks = {rank: list(_limits(facts, len(places.hosts))) for rank, facts in everyone.items()}
    return [*gathered(places, of_hosts, of_hosts=True), *gathered(places, of_ranks)]


def why_not(facts: Facts) -> str | None:
    """None, or why MPI would die, or end this process, as it starts: so were MPICH 5 and its UCX
    seen to do.
    """
    shared, limits = facts.get("shared") or {}, facts.get("limits", {})
    if "problem" in shared or shared.get("free", LEAST_SHARED_BYTES) < LEAST_SHARED_BYTES:
        return f"{SHARED} is too small"
    least = {"NOFILE": LEAST_FILES_TO_START, "FSIZE": LEAST_FILE_BYTES_TO_START}
    low = [
        name
        for name, value in least.items()
        if limits.get(name) is not None and limits[name] < value
    ]
    return f"limits are too low: {', '.join(low)}" if low else None


def _memory(facts: Facts, ranks: int) -> Iterator[Finding]:
    known = {"host": facts["free"], "container or job (cgroup)": facts["group_free"]}
    for what, free in known.items():
        if free is None:
            continue
        needed = ranks * RANK_BYTES
        text = (
            f"{_size(free)} free in the {what}, for {count(ranks, 'rank')} of about"
            f" {_size(RANK_BYTES)} by default"
        )
        if free < needed:
            remedy = (
                "ask for more memory (sbatch --mem), end what fills it, start fewer ranks;"
                " --data-memory bounds what is kept of the data"
            )
            yield Finding("memory", BAD if free < RANK_BYTES else WARNING, text, remedy)
        elif what == "host":
            rounded = f"{free / 2**30:.0f} GiB" if free >= 2**30 else _size(free)
            yield Finding("memory", GOOD, f"about {rounded} free in the host")


def _shared(facts: Facts, ranks: int) -> Iterator[Finding]:
    shared = facts["shared"]
    if shared is None or ranks == 1:
        return
    remedy = (
        "give the container more (docker --shm-size=1g, --ipc=host), remove what killed runs left"
        " there (launch/clean_shared_memory.py)"
    )
    if "problem" in shared:
        yield Finding(
            "shared",
            BAD,
            f"{SHARED} cannot be written ({shared['problem']}): MPI keeps the memory its ranks"
            " share there",
            remedy,
        )
        return
    free, needed = shared["free"], max(AMPLE_SHARED_BYTES + MIB, ranks * SHARED_BYTES_A_RANK)
    left = (
        f", {shared['left']} segments of MPI in it ({_size(shared['left_bytes'])}: of runs that go"
        " on, or died)"
        if shared["left"]
        else ""
    )
    text = f"{SHARED}: {_size(free)} free of {_size(shared['size'])}{left}"
    if free < LEAST_SHARED_BYTES:
        yield Finding("shared", BAD, f"{text}: MPI will not start, or die", remedy)
    elif free < needed:
        yield Finding(
            "shared",
            WARNING,
            f"{text}: little for {counted(ranks, 'rank')}, MPI may fail or be slow",
            remedy,
        )
    else:
        yield Finding("shared", GOOD, f"{SHARED}: enough is free")


def _limits(facts: Facts, world_size: int) -> Iterator[Finding]:
    limits = facts["limits"]

    def below(name: str, least: float) -> bool:
        return limits.get(name) is not None and limits[name] < least

    files = max(AMPLE_FILES, LEAST_FILES + FILES_A_RANK * world_size)
    found = []
    if below("NOFILE", files):
        state = BAD if below("NOFILE", LEAST_FILES) else WARNING
        text = (
            f"only {limits['NOFILE']} open files (ulimit -n): MPI needs several for each rank,"
            f" {files} are ample here"
        )
        found.append(Finding("limits", state, text, RAISE))
    for name, flag in (("AS", "-v"), ("DATA", "-d")):
        if below(name, LEAST_ADDRESSES):
            text = (
                f"only {_size(limits[name])} of addresses (ulimit {flag}): libraries reserve far"
                " more than they use"
            )
            found.append(
                Finding("limits", BAD if below(name, RANK_BYTES) else WARNING, text, RAISE)
            )
    if below("STACK", LEAST_STACK):
        found.append(
            Finding("limits", WARNING, f"only {_size(limits['STACK'])} of stack (ulimit -s)", RAISE)
        )
    if below("NPROC", LEAST_PROCESSES):
        text = (
            f"only {limits['NPROC']} processes and threads (ulimit -u), of all that this user runs"
        )
        found.append(Finding("limits", WARNING, text, RAISE))
    if below("FSIZE", LEAST_FILE_BYTES):
        text = f"files end at {_size(limits['FSIZE'])} (ulimit -f): checkpoints may not fit"
        found.append(
            Finding(
                "limits", BAD if below("FSIZE", LEAST_FILE_BYTES_TO_START) else WARNING, text, RAISE
            )
        )
    if below("CPU", LEAST_CPU_SECONDS):
        text = f"the system ends each rank after {limits['CPU']} s of computing (ulimit -t)"
        found.append(
            Finding("limits", WARNING, text, f"login nodes do that: train in a job; or {RAISE}")
        )
    if facts["network_card"] and below("MEMLOCK", 64 * MIB):
        text = (
            f"only {_size(limits['MEMLOCK'])} of locked memory (ulimit -l), and there is"
            " InfiniBand, which needs it"
        )
        found.append(Finding("limits", WARNING, text, RAISE))
    yield from found or [
        Finding("limits", GOOD, "of files, memory, stack, processes and time: wide enough")
    ]


def limits() -> dict[str, int | None]:
    """The soft limits of this process."""
    import resource

    names = ("NOFILE", "AS", "DATA", "STACK", "NPROC", "FSIZE", "CPU", "MEMLOCK")
    found = {
        name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        for name in names
        if hasattr(resource, f"RLIMIT_{name}")
    }
    return {
        name: None if value == resource.RLIM_INFINITY else value for name, value in found.items()
    }


def group_memory(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int | None:
    """Bytes left in the tightest control group of this process; None where there is no limit.

    What the group's files keep in the cache does not count as used.
    """
    left = [most - now + _cached(folder) for folder, most, now in group_limits(root, own)]
    return max(0, min(left)) if left else None


def _cached(folder: Path) -> int:
    """Of a control group, the bytes of files in the cache that are not in use."""
    try:
        pairs = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return next((int(value) for name, value in pairs if name == "inactive_file"), 0)
    except (OSError, ValueError):
        return 0


def shared_memory(folder: Path = SHARED) -> Facts | None:
    """Room in /dev/shm, and what MPIs left there; None where the system has no such place."""
    if not sys.platform.startswith("linux"):
        return None
    name = folder / f".distcnn-doctor-{secrets.token_hex(8)}"
    try:
        name.touch(exist_ok=False)  # does not follow a link that another user put there
        name.unlink()
        room = os.statvfs(folder)
        left = [each for each in folder.iterdir() if each.name.startswith(leftovers.PREFIXES)]
        left_bytes = sum(each.stat().st_size for each in left if each.exists())
    except OSError as error:
        return {"problem": error.strerror}
    return {
        "free": room.f_bavail * room.f_frsize,
        "size": room.f_blocks * room.f_frsize,
        "left": len(left),
        "left_bytes": left_bytes,
    }


def _size(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= MIB else f"{size / 1024:.0f} KiB"


SECTION = Section("memory", look, judge)
