"""Memory for what is planned once and used in every step: large pages, where the system has them.

A core looks a page's place in memory up in a small table. A step goes through more pages of 4 KiB
than that table has lines, and each that is missing costs a walk through memory, or several in a
virtual machine. Linux gives pages of 2 MiB to programs that ask for them (transparent huge pages),
and NumPy asks, but only for arrays of 4 MiB and more; so buffers lie side by side in pieces larger
than that.
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn.layer import Array, Shape

ALIGNMENT_BYTES = 64
PIECE_BYTES = 64 << 20
"""More than what the C library may take from memory that it has used before (32 MiB): a piece takes
room only where it is written to.
"""


class Arena:
    """Zeros, cut from one piece of memory after another.

    A piece is given back when the last array in it is gone.
    """

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes, self._lock = piece_bytes, Lock()
        self._rest = memoryview(bytearray())

    def zeros(self, nbytes: int) -> NDArray[np.uint8]:
        """So many bytes, an array of its own; it starts on a cache line.

        ``MemoryError`` where there are not so many.
        """
        taken = -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        with self._lock:
            if taken > self._piece_bytes:
                return np.frombuffer(_piece(taken), np.uint8, nbytes)
            if taken > len(self._rest):
                self._rest = _piece(self._piece_bytes)
            own, self._rest = self._rest[:taken], self._rest[taken:]
        return np.frombuffer(own, np.uint8, nbytes)


def _piece(nbytes: int) -> memoryview:
    raw = np.zeros(nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw.data[start : start + nbytes]


_ARENA = Arena()


def buffer(shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros that start on a cache line, so that neither speed nor result depends on the address."""
    dtype = np.dtype(dtype)
    return _ARENA.zeros(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


class Buffers:
    """The buffers of one plan: arrays of zeros of one dtype, and how many bytes they take."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.nbytes = 0

    def zeros(self, shape: Shape, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """An array of ``shape``, of the plan's dtype unless another is given."""
        array = buffer(shape, self.dtype if dtype is None else dtype)
        self.nbytes += array.nbytes
        return array

    def images(self, shape: Shape, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Images of ``shape`` (C, H, W, N) that stand in memory row by row, all channels of a row
        together, (H, C, W, N): a few rows of all channels are then one matrix.
        """
        channels, height, *others = shape
        return self.zeros((height, channels, *others), dtype).swapaxes(0, 1)

    def activations(self, shape: Shape, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """``images`` for (C, H, W, N), plain ``zeros`` for any other shape."""
        return self.images(shape, dtype) if len(shape) == 4 else self.zeros(shape, dtype)

    def like(self, array: Array, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """An array of the shape of ``array`` whose axes have the same order in memory."""
        order = np.argsort([-stride for stride in array.strides], kind="stable")
        inner = self.zeros(tuple(array.shape[axis] for axis in order), dtype or array.dtype)
        return inner.transpose(np.argsort(order))
