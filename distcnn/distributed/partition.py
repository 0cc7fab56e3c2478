"""Who owns which shards, and how a gradient is cut into buckets: the same on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass

from distcnn.errors import InputError
from distcnn.system.wording import counted

SMALLEST_BUCKET = 32768
"""Elements (256 KiB of float64): the sum of fewer costs latency rather than bandwidth."""


def share_of(items: int, parts: int, part: int) -> range:
    """The contiguous range of ``items`` that ``part`` of ``parts`` owns, equal up to one."""
    return range(part * items // parts, (part + 1) * items // parts)


def shards_of_rank(num_shards: int, world_size: int, rank: int) -> range:
    """The shards that ``rank`` owns. ``InputError`` when there are more ranks than shards."""
    if world_size > num_shards:
        raise InputError(
            f"{counted(world_size, 'rank')} cannot share {counted(num_shards, 'shard')} (each rank"
            f" owns at least one): start at most {counted(num_shards, 'rank')}, or give"
            f" --num-shards {world_size} (which changes the global batch, and so the bits)"
        )
    return share_of(num_shards, world_size, rank)


@dataclass(frozen=True)
class Bucket:
    """Elements ``start`` to ``stop`` of the flat gradient, which are summed in one message.

    Numbers count from 0, the last layers' bucket first, as backward completes them. The counts of
    the step travel with the last one.
    """

    number: int
    start: int
    stop: int
    is_last: bool

    @property
    def elements(self) -> slice:
        return slice(self.start, self.stop)


def plan_buckets(borders: Sequence[int], smallest: int = SMALLEST_BUCKET) -> tuple[Bucket, ...]:
    """Cut a vector at some of ``borders`` (ascending, from 0 to its size), from its end to 0, each
    bucket at the first that gives it ``smallest`` elements.
    """
    *inner, stop = borders
    spans = []
    for start in reversed(inner):
        if stop - start >= smallest and start > 0:
            spans.append((start, stop))
            stop = start
    spans.append((0, stop))
    return tuple(Bucket(number, *span, span[0] == 0) for number, span in enumerate(spans))
