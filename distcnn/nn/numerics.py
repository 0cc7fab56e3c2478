"""NumPy's settings while layers compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BUFFER_ELEMENTS = 1024
"""NumPy (2.4) copies operands whose runs are shorter than its buffer, 8192 elements by default,
into that buffer, such as rows of images, and works on the copy. With a buffer no longer than the
runs it works in place: half the time for runs of 768 (docs/speed.md)."""


@contextmanager
def computing() -> Iterator[None]:
    """Suppress overflow warnings, since the reduction rejects non-finite values, and shorten
    NumPy's buffer. No result depends on it.
    """
    before = np.getbufsize()
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(BUFFER_ELEMENTS)
        try:
            yield
        finally:
            np.setbufsize(before)
