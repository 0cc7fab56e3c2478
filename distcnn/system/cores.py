"""Cores: how many a rank may use, which ranks of a host share them, and whether there are
enough.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.system.wording import counted, plural

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cores:
    """What one rank may use: the cores it is bound to by number, and how many of them at a time (a
    container's or a job's share).
    """

    host: str
    ids: frozenset[int]
    share: float = math.inf


def usable_cores(host: str, environment: Mapping[str, str] = os.environ) -> Cores:
    """This process's."""
    ids = frozenset(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    allocated = environment.get("SLURM_CPUS_ON_NODE", "")
    return Cores(
        host,
        ids,
        min(cgroup_share(), int(allocated) if allocated.isdigit() and int(allocated) else math.inf),
    )


def cgroup_share(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """How many cores' time the control groups of this process (version 1 or 2) grant it; inf where
    nothing limits it.
    """
    return min((_share_of(folder) for folder in group_folders(root, own, "cpu")), default=math.inf)


def _share_of(folder: Path) -> float:
    """What one control group grants."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return int(quota) / int(period) if quota.isdigit() else math.inf
    return math.inf


def group_folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group of ``controller`` and of all above it, as ``own``
    (/proc/self/cgroup) names them.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        bases = (root / controllers, root / controller) if controllers else (root, root / "unified")
        inner = Path(path.lstrip("/"))
        for base in bases:
            for folder in (base / inner, *(base / inner).parents):
                if folder.is_relative_to(base) and folder.is_dir():
                    yield folder


def default_ranks(cores: Cores, most: int = 4) -> int:
    """How many ranks to start on this host when the user names no number: one for each of
    ``cores``, from 1 to ``most``.
    """
    return max(1, int(min(most, len(cores.ids), cores.share)))


def threads_for_each(everyone: Sequence[Cores]) -> int:
    """As many threads as there are cores for each rank, at least 1: of the rank that has the
    fewest, for all must have as many.
    """
    ranks = Counter(each.host for each in everyone)

    def of_rank(rank: Cores) -> int:
        sharing = sum(bool(rank.ids & other.ids) for other in everyone if other.host == rank.host)
        return int(min(len(rank.ids) / sharing, rank.share / ranks[rank.host]))

    return max(1, min(map(of_rank, everyone)))


def oversubscription(everyone: Sequence[Cores], threads: int) -> str | None:
    """None, or in words how the host that has it worst has more threads of ranks than cores for
    them.
    """
    crowds: list[tuple[float, str]] = []
    for host in dict.fromkeys(each.host for each in everyone):
        here = [each for each in everyone if each.host == host]
        bound = frozenset().union(*(each.ids for each in here))
        cores = min(len(bound), *(each.share for each in here))
        if len(here) * threads > cores:
            each = "" if threads == 1 else f" of {threads} threads"
            found = (
                f"{counted(len(here), 'rank')}{each} on host {host} share {cores:g}"
                f" {plural(cores, 'core')}"
            )
            crowds.append((len(here) * threads / cores, found))
    return max(crowds)[1] if crowds else None
