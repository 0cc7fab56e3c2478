"""Buckets: slices of the flat gradient vector that are summed over all ranks one after another, the
last layers' first.
"""

from __future__ import annotations

from collections.abc import Sequence

SMALLEST_BUCKET = 32768
"""Elements (256 KiB of float64): below, a sum costs its delays rather than its bytes."""


def plan_buckets(borders: Sequence[int], smallest: int = SMALLEST_BUCKET) -> list[slice]:
    """Cut a vector at some of ``borders`` (ascending, from 0 to its size) into buckets, from its
    end to its beginning.

    Each begins as soon as it holds ``smallest`` elements, the last one at 0. A pure function, so
    the same on all ranks.
    """
    *inner, stop = borders
    buckets = []
    for start in reversed(inner):
        if stop - start >= smallest and start > 0:
            buckets.append(slice(start, stop))
            stop = start
    return [*buckets, slice(0, stop)]
