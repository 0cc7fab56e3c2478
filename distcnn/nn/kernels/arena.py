"""Memory for what is planned once and used in every step: large pages, where the system has them.

A core looks a page's place in memory up in a small table. A step goes through more pages of 4 KiB
than that table has lines, and each that is missing costs a walk through memory, or several in a
virtual machine. Linux gives pages of 2 MiB to programs that ask for them (transparent huge pages),
and NumPy asks, but only for arrays of 4 MiB and more; so buffers lie side by side in pieces larger
than that.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

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
