"""Which rank owns which items: pure functions, the same on every rank."""

from __future__ import annotations

from distcnn.errors import InputError
from distcnn.system.wording import counted


def share_of(items: int, parts: int, part: int) -> range:
    """The contiguous range of ``items`` that ``part`` of ``parts`` owns.

    The ranges cover all items, and their lengths differ by at most one.
    """
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
