"""Vectors in memory that all ranks of one host see, and their sum, without MPI moving a byte of them."""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Vector = NDArray[Any]

ELEMENTS_AT_A_TIME = 16384
"""The sums (128 KiB) stay in the nearest caches until they are written everywhere."""

TOKEN_BYTES = 16
"""What a rank writes into its memory, and the others must find there: a process of another container may have the same number."""


class SharedVector:
    """This rank's vector ``own``, and those of all ranks of its host, in rank order.

    Each rank sums its share of the elements over all vectors, in rank order, and writes the sums into all of them. MPI's own allreduce
    moves every element through buffers more often, and takes longer (docs/speed.md).
    """

    def __init__(self, vectors: list[Vector], rank: int, meet: Callable[[], None]) -> None:
        """``meet`` returns when all ranks have called it; what each wrote before, all see after (MPI's messages order memory so)."""
        self._vectors, self._rank, self._meet = vectors, rank, meet
        self.own = vectors[rank]
        self._sums = np.empty(min(self.own.size, ELEMENTS_AT_A_TIME), self.own.dtype)

    def part(self, values: Vector) -> slice | None:
        """Which of the vector's elements ``values`` are; None when they are others."""
        start, rest = divmod(values.ctypes.data - self.own.ctypes.data, self.own.itemsize)
        inside = start >= 0 and start + values.size <= self.own.size and not rest
        return slice(start, start + values.size) if inside and values.dtype == self.own.dtype and values.flags.c_contiguous else None

    def sum(self, part: slice) -> None:
        """Replace ``part`` of every rank's vector by its sum over all ranks. Collective."""
        size, ranks = part.stop - part.start, len(self._vectors)
        mine = range(part.start + size * self._rank // ranks, part.start + size * (self._rank + 1) // ranks)
        self._meet()
        for start in mine[::ELEMENTS_AT_A_TIME]:
            few = slice(start, min(start + ELEMENTS_AT_A_TIME, mine.stop))
            first, second, *others = (each[few] for each in self._vectors)
            sums = np.add(first, second, out=self._sums[: first.size])
            for each in others:
                sums += each
            for vector in self._vectors:
                vector[few] = sums
        self._meet()


def share_vectors(allgather: Callable[[Any], list[Any]], size: int, dtype: DTypeLike) -> list[Vector] | None:
    """Zeros (size,) of every rank, in rank order, each in memory of its own; None when some rank cannot see another's. Collective.

    The ranks must be on one host. The memory has no name in any file system: it is gone with the last rank, however that ends.
    """
    nbytes = max(size * np.dtype(dtype).itemsize, TOKEN_BYTES)
    own, token = _reserve(nbytes), secrets.token_bytes(TOKEN_BYTES)
    if own is not None:
        os.pwrite(own, token, 0)
    offers = allgather((os.getpid(), own, token))
    maps = [_map(process, descriptor, its_token, nbytes) for process, descriptor, its_token in offers]
    seen_by_all = all(allgather(None not in maps))
    if own is not None:
        os.pwrite(own, bytes(TOKEN_BYTES), 0)
        os.close(own)
    return [np.frombuffer(each, dtype, size) for each in maps if each is not None] if seen_by_all else None


def _reserve(nbytes: int) -> int | None:
    """A file descriptor of so much new memory, all of it there; None where the system has no such thing, or not so much."""
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


def _map(process: int, descriptor: int | None, token: bytes, nbytes: int) -> mmap.mmap | None:
    """The memory of ``process``, in this one."""
    if descriptor is None:
        return None
    try:
        memory = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        mapped = mmap.mmap(memory, nbytes)
    except (OSError, ValueError):
        return None
    finally:
        os.close(memory)
    return mapped if mapped[:TOKEN_BYTES] == token else None
