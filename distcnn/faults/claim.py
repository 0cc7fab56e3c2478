"""Who speaks for a host: the first process to ask. Standard library only."""

from __future__ import annotations

import socket
import sys

_claims: list[socket.socket] = []


def claim(job: str) -> bool:
    """Whether this process is the first on its host to ask for ``job``: it holds an abstract socket of that name until it ends."""
    if not sys.platform.startswith("linux"):
        return True
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mine.bind(f"\0distcnn-{job}")
    except OSError:
        mine.close()
        return False
    _claims.append(mine)
    return True
