"""Memory that all ranks of one host share."""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

TOKEN_BYTES = 16
"""A random token, checked by the others: another container may have the same process id."""


def share_memory(allgather: Callable[[Any], list[Any]], nbytes: int) -> list[mmap.mmap] | None:
    """Zeros of every rank, in rank order: at least the bytes that rank requests.

    None when some rank cannot see another's. Collective; the ranks must be on one host. The memory
    has no name in any file system, so it is freed with the last rank, however that ends.
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
    """A file descriptor of ``nbytes`` of new memory, all reserved; None if impossible."""
    if sys.platform != "linux":
        return None
    with suppress(OSError):
        memory = os.memfd_create("distcnn")
        try:
            os.posix_fallocate(memory, 0, nbytes)
        except OSError:
            os.close(memory)
            raise
        return memory
    return None


def _map(process: int, descriptor: int | None, token: bytes) -> mmap.mmap | None:
    """Map the memory of ``process`` into this one; None where it cannot be seen."""
    with suppress(OSError, ValueError):
        memory = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK)
        try:
            mapped = mmap.mmap(memory, 0)
        finally:
            os.close(memory)
        return mapped if mapped[:TOKEN_BYTES] == token else None
    return None
