"""How much memory this process could have at most: the host's, or what a container or a job
grants.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from distcnn.system.cores import CGROUPS, group_folders

OWN_GROUPS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")


def most_memory() -> int | None:
    """Bytes of memory and swap of the host, or the tightest control group's limit; None where
    neither is known.
    """
    limits = [limit for _, limit, _ in group_limits()]
    total, swap = memory_info("MemTotal"), memory_info("SwapTotal")
    return min([*limits, *([total + (swap or 0)] if total else [])], default=None)


def memory_info(name: str) -> int | None:
    """Bytes by that name as Linux tells them of the host; None elsewhere."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None
    )


def group_limits(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> Iterator[tuple[Path, int, int]]:
    """The control groups (version 2 or 1) of this process that limit memory: folder, limit, and how
    much is used, in bytes.
    """
    for folder in group_folders(root, own, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most, now = ((folder / name).read_text().strip() for name in (limit, used))
            except OSError:
                continue
            if most.isdigit() and int(most) < sys.maxsize // 2:
                yield folder, int(most), int(now)
