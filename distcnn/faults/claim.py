"""Who speaks for a host: the first process to ask, and who is there at all. Standard library only."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

_PREFIX = "distcnn-"


def claim(job: str) -> bool:
    """Whether this process is the first on its host to ask for ``job``: it holds an abstract socket of that name until it ends."""
    if not sys.platform.startswith("linux"):
        return True
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mine.bind(f"\0{_PREFIX}{job}")
    except OSError:
        mine.close()
        return False
    mine.detach()  # open until the process ends
    return True


def claimed() -> set[str]:
    """What living processes of this host hold; empty where the system does not tell."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    names = (line.rpartition(" ")[2] for line in lines)
    return {name.removeprefix(f"@{_PREFIX}") for name in names if name.startswith(f"@{_PREFIX}")}
