"""What kind of file system a path lies on, and whether anything hangs there."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
SHARED_KINDS = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb3",
    "9p",
    "afs",
    "orangefs",
    "panfs",
    "glusterfs",
)
"""Those that several hosts can see."""


def file_system(path: str | Path, mounts: Path = MOUNTS) -> str:
    """The kind of the file system that ``path`` lies on, such as "ext4" or "nfs4"; nothing where
    that is unknown.
    """
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    real, best, kind = os.path.realpath(path), "", ""
    for line in lines:
        if len(line) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, line[2]
    return kind.removeprefix("fuse.")


def nearest_folder(path: Path) -> Path:
    """``path``, or what of it there is already."""
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), Path("/"))
