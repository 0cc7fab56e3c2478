"""Memory that all ranks of one host see."""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

TOKEN_BYTES = 16
"""What a rank writes into its memory, and the others must find there: a process of another
container may have the same number.
"""


def share_memory(allgather: Callable[[Any], list[Any]], nbytes: int) -> list[mmap.mmap] | None:
    """Zeros of every rank, in rank order, each as many bytes as that rank asks for, or a few more.

    None when some rank cannot see another's. Collective; the ranks must be on one host. The memory
    has no name in any file system: it is gone with the last rank, however that ends.
    """
    own, token = _reserve(max(nbytes, TOKEN_BYTES)), secrets.token_bytes(TOKEN_BYTES)
    if own is not None:
        os.pwrite(own, token, 0)
    offers = allgather((os.getpid(), own, token))
    memories = [_map(*offer) for offer in offers]
    seen_by_all = all(allgather(None not in memories))
    if own is not None:
        os.pwrite(own, bytes(TOKEN_BYTES), 0)
        os.close(own)
    return [each for each in memories if each is not None] if seen_by_all else None


def _reserve(nbytes: int) -> int | None:
    """A file descriptor of so much new memory, all of it there; None where the system has no such
    thing, or not so much.
    """
    if sys.platform != "linux":
        return None
    try:
        memory = os.memfd_create("distcnn")
    except OSError:
        return None
    try:
        os.posix_fallocate(memory, 0, nbytes)
    except OSError:
        os.close(memory)
        return None
    return memory


def _map(process: int, descriptor: int | None, token: bytes) -> mmap.mmap | None:
    """The memory of ``process``, in this one."""
    if descriptor is None:
        return None
    try:
        memory = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        mapped = mmap.mmap(memory, 0)
    except (OSError, ValueError):
        return None
    finally:
        os.close(memory)
    return mapped if mapped[:TOKEN_BYTES] == token else None
