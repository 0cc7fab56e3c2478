"""The processor, cores and memory that this process may use, as Linux reports them."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.system.files import read_entry
from distcnn.system.wording import counted, plural

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CPU, MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")


@dataclass(frozen=True)
class Cores:
    """The cores ``ids`` of ``host`` that one rank may run on, and the ``share`` of cores whose time
    the ranks of its container or job may use together.
    """

    host: str
    ids: frozenset[int]
    share: float = math.inf


def usable_cores(host: str, environment: Mapping[str, str] = os.environ) -> Cores:
    ids = frozenset(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    allocated = environment.get("SLURM_CPUS_ON_NODE", "")
    share = int(allocated) if allocated.isdigit() and int(allocated) else math.inf
    return Cores(host, ids, min(cgroup_share(), share))


def default_ranks(cores: Cores, most: int = 4) -> int:
    """Number of ranks to start on this host if the user gives none: one per core, 1 to ``most``."""
    return max(1, int(min(most, len(cores.ids), cores.share)))


def threads_for_each(everyone: Sequence[Cores]) -> int:
    """Number of threads for which every rank has cores, at least 1."""
    ranks = Counter(cores.host for cores in everyone)

    def of_rank(rank: Cores) -> int:
        sharing = sum(bool(rank.ids & other.ids) for other in everyone if other.host == rank.host)
        return int(min(len(rank.ids) / sharing, rank.share / ranks[rank.host]))

    return max(1, min(map(of_rank, everyone)))


def oversubscription(everyone: Sequence[Cores], threads: int) -> str | None:
    """Describe the host with the fewest cores per thread, as in "4 ranks on 2 cores of host a";
    None if every host has cores for all ``threads`` of each rank.
    """
    crowds: list[tuple[float, str]] = []
    for host in dict.fromkeys(cores.host for cores in everyone):
        here = [cores for cores in everyone if cores.host == host]
        bound = frozenset().union(*(cores.ids for cores in here))
        cores = min(len(bound), *(cores.share for cores in here))
        if len(here) * threads > cores:
            of_threads = "" if threads == 1 else f" of {threads} threads"
            text = (
                f"{counted(len(here), 'rank')}{of_threads} on {cores:g} {plural(cores, 'core')}"
                f" of host {host}"
            )
            crowds.append((len(here) * threads / cores, text))
    return max(crowds)[1] if crowds else None


def most_memory() -> int | None:
    """Bytes that this process could use at most: the host's memory and swap, or the tightest limit
    of its control groups; None if unknown.
    """
    limits = [limit for _, limit, _ in _group_limits(CGROUPS, OWN_CGROUPS)]
    total, swap = _memory_info("MemTotal"), _memory_info("SwapTotal")
    return min([*limits, *([total + (swap or 0)] if total else [])], default=None)


def free_memory(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """Bytes that this process could still use, of the host's memory and its control groups'; None
    if unknown. Cached files that are not in use count as free.
    """
    available = _memory_info("MemAvailable")
    left = [] if available is None else [available]
    for folder, limit, used in _group_limits(root, own):
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.M)
        left.append(max(0, limit - used + int(found[1] if found else 0)))
    return min(left, default=None)


def processor() -> str:
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_info(*names: str) -> str:
    """The first entry of /proc/cpuinfo with one of ``names``; empty if none."""
    return read_entry(CPU, *names)


def cgroup_share(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Cores whose time this process's control groups, named in ``own``, grant; inf: no limit."""
    return min(map(_share_of, _group_folders(root, own, "cpu")), default=math.inf)


def _share_of(folder: Path) -> float:
    text = _read(folder / "cpu.max") or " ".join(
        _read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    )
    found = re.fullmatch(r"(\d+) ([1-9]\d*)", text)
    return int(found[1]) / int(found[2]) if found else math.inf


def _group_folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group of ``controller``, and of its parents."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        bases = (root / controllers, root / controller) if controllers else (root, root / "unified")
        inner = Path(path.lstrip("/"))
        for base in bases:
            for folder in (base / inner, *(base / inner).parents):
                if folder.is_relative_to(base) and folder.is_dir():
                    yield folder


def _group_limits(root: Path, own: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield folder, limit and use (bytes) of each control group that limits memory."""
    for folder in _group_folders(root, own, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = _read(folder / limit), _read(folder / used)
            if most.isdigit() and now.isdigit() and int(most) < sys.maxsize // 2:
                yield folder, int(most), int(now)


def _memory_info(name: str) -> int | None:
    entry = read_entry(MEMORY, name)
    return int(entry.split()[0]) * 1024 if entry else None


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
