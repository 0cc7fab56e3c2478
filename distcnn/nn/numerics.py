"""How NumPy computes while layers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BUFFER_ELEMENTS = 1024
"""NumPy (2.4) copies operands into a buffer, 8192 elements by default, where they lie in runs
shorter than that, as rows of images do, and works on the buffer. With one no longer than the runs
it works on them where they lie: half the time for runs of 768 (docs/speed.md)."""


@contextmanager
def computing() -> Iterator[None]:
    """While it is entered: no warnings of numbers that overflow, which the sums refuse, and a short
    buffer. No result depends on it.
    """
    before = np.getbufsize()
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(BUFFER_ELEMENTS)
        try:
            yield
        finally:
            np.setbufsize(before)
