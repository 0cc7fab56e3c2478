"""NumPy's settings while layers compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BUFFER_ELEMENTS = 1024
"""NumPy (2.4) copies operands whose runs are shorter than its buffer, 8192 elements by default,
and works on the copy. With a shorter buffer it works in place: half the time for runs of 768."""


@contextmanager
def numpy_settings() -> Iterator[None]:
    """Suppress overflow warnings, as sums reject non-finite values; shorten NumPy's buffer."""
    before = np.getbufsize()
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(BUFFER_ELEMENTS)
        try:
            yield
        finally:
            np.setbufsize(before)
