"""Memory for buffers that are planned once and used in every step, cut from large slabs.

A step touches more pages of 4 KiB than the TLB has entries, and each miss costs a page walk, or
several in a virtual machine. Linux gives pages of 2 MiB to programs that ask for them (transparent
huge pages), and NumPy asks, but only for arrays of 4 MiB and more.
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn.layer import Array, Shape

ALIGNMENT_BYTES = 64
LARGE_PAGE_BYTES = 2 << 20
"""Slabs begin at a multiple of this address. The first arrays in them are usually parameters."""
SLAB_BYTES = 64 << 20
"""More than the C library reuses of freed memory (32 MiB): untouched pages take no memory."""


class Arena:
    """Zeros, cut from one slab of memory after another. A slab is freed with its last array."""

    def __init__(self, slab_bytes: int = SLAB_BYTES) -> None:
        self._slab_bytes, self._lock = slab_bytes, Lock()
        self._rest = memoryview(bytearray())

    def zeros(self, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """An array that starts on a cache line: neither speed nor bits depend on its address."""
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        taken = -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        with self._lock:
            if taken > self._slab_bytes:
                own = _slab(taken)
            else:
                if taken > len(self._rest):
                    self._rest = _slab(self._slab_bytes)
                own, self._rest = self._rest[:taken], self._rest[taken:]
        return np.frombuffer(own, np.uint8, nbytes).view(dtype).reshape(shape)


def _slab(nbytes: int) -> memoryview:
    raw = np.zeros(nbytes + LARGE_PAGE_BYTES, np.uint8)
    start = -raw.ctypes.data % LARGE_PAGE_BYTES
    return raw.data[start : start + nbytes]


allocate = Arena().zeros
"""``(shape, dtype) -> zeros`` from the arena of this process: for parameters, gradients and the
buffers of plans."""


class Buffers:
    """The buffers of one plan: arrays of zeros, and how many bytes they take."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._sizes: list[int] = []
        self._scratch: dict[tuple[str, Shape, Shape, np.dtype], Array] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays so far."""
        return sum(self._sizes)

    def of_type(self, dtype: DTypeLike) -> Buffers:
        """Buffers of another type for the same plan: their arrays count here too."""
        others = Buffers(dtype)
        others._sizes = self._sizes
        return others

    def zeros(self, shape: Shape, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """An array of ``shape``, of the plan's dtype unless another is given."""
        array = allocate(shape, self.dtype if dtype is None else dtype)
        self._sizes.append(array.nbytes)
        return array

    def images(self, shape: Shape, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Images of ``shape`` (C, H, W, N) stored row by row, all channels of a row together: as
        (H, C, W, N). A few rows of all channels are then one matrix. Plain zeros for other shapes.
        """
        if len(shape) != 4:
            return self.zeros(shape, dtype)
        channels, height, *others = shape
        return self.zeros((height, channels, *others), dtype).swapaxes(0, 1)

    def like(self, array: Array, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """An array of the shape of ``array`` whose axes have the same order in memory."""
        order = np.argsort([-stride for stride in array.strides], kind="stable")
        inner = self.zeros(tuple(array.shape[axis] for axis in order), dtype or array.dtype)
        return inner.transpose(np.argsort(order))

    def scratch(self, purpose: str, array: Array, dtype: DTypeLike | None = None) -> Array:
        """An array ``like`` this one whose content is lost between uses: requests with the same
        ``purpose`` and shape get the same array, so that it stays in the caches.
        """
        key = purpose, array.shape, array.strides, np.dtype(dtype or array.dtype)
        if key not in self._scratch:
            self._scratch[key] = self.like(array, dtype)
        return self._scratch[key]
