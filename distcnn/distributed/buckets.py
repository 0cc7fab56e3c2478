"""Buckets: the pieces of the gradient that are summed over all ranks, each in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_BUCKET = 32768
"""Elements (256 KiB of float64): the sum of fewer costs latency rather than bandwidth."""


@dataclass(frozen=True)
class Bucket:
    """Elements ``start`` to ``stop`` of the flat gradient, which are summed in one message.

    ``number`` counts from 0, the last layers' bucket first, as backward completes them. The counts
    of the step (loss, correct answers, ...) travel with the bucket that ``is_last``.
    """

    number: int
    start: int
    stop: int
    is_last: bool

    @property
    def elements(self) -> slice:
        """To index a flat vector with."""
        return slice(self.start, self.stop)


def plan_buckets(borders: Sequence[int], smallest: int = SMALLEST_BUCKET) -> tuple[Bucket, ...]:
    """Cut a vector at some of ``borders`` (ascending, from 0 to its size), from its end to 0.

    Each bucket begins at the first border that gives it ``smallest`` elements, the last one at 0.
    A pure function, so the same on all ranks.
    """
    *inner, stop = borders
    spans = []
    for start in reversed(inner):
        if stop - start >= smallest and start > 0:
            spans.append((start, stop))
            stop = start
    spans.append((0, stop))
    last = len(spans) - 1
    return tuple(Bucket(number, *span, number == last) for number, span in enumerate(spans))
