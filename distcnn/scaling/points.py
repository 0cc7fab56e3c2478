"""The plan of a sweep: its points, what they compute, and the order of measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRONG, WEAK = "strong", "weak"
MODES = {STRONG: (STRONG,), WEAK: (WEAK,), "both": (STRONG, WEAK)}
BATCH = 256
"""Examples of a step unless flags say otherwise: of all ranks in strong scaling, of each rank in
weak scaling.
"""
SMALLEST_MICROBATCH = 16  # matrix products are slow below
MICROBATCH_MULTIPLE = 8  # float32 of a vector register
# Every shard adds its own overhead to a step, so the largest point has few shards per rank.
FEWEST_SHARDS, MOST_SHARDS_PER_RANK = 4, 4


@dataclass(frozen=True)
class Point:
    """A number of ranks and their work."""

    mode: str
    ranks: int
    num_shards: int
    microbatch_size: int

    @property
    def global_batch_size(self) -> int:
        return self.num_shards * self.microbatch_size

    @property
    def most_shards(self) -> int:
        """Shards of the rank with the most, for which all others wait."""
        return -(-self.num_shards // self.ranks)

    @property
    def balance(self) -> float:
        """The highest efficiency that the division into shards allows; 1 if it is even."""
        return self.num_shards / (self.ranks * self.most_shards)

    def with_ranks(self, ranks: int) -> Point:
        """The same work on other ranks: in weak scaling, per rank."""
        grown = self.num_shards // self.ranks * ranks
        num_shards = self.num_shards if self.mode == STRONG else grown
        return Point(self.mode, ranks, num_shards, self.microbatch_size)


@dataclass(frozen=True)
class Job:
    """One measurement of a point, the ``repeat``-th from 1."""

    point: Point
    repeat: int

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.point.mode}-{self.point.ranks}-ranks-repeat-{self.repeat}"


def plan_points(mode: str, ranks: Sequence[int], flags: Mapping[str, Any]) -> list[Point]:
    """Choose shards and microbatch size for all points together; ``mode`` is one of ``MODES``.

    Strong scaling has the flag ``num_shards`` at every point, weak scaling at its smallest point
    and in proportion beyond; without it both have a global batch of about ``BATCH``, in weak
    scaling on every rank. The microbatch size is the same at all points.
    """
    given = flags.get("num_shards", 0)
    of_all = given or choose_shards(ranks)
    of_rank = max(1, given // ranks[0]) if given else 0
    divisor = (of_rank or FEWEST_SHARDS) if mode == WEAK else of_all
    microbatch_size = flags.get("microbatch_size") or max(
        SMALLEST_MICROBATCH, BATCH // divisor // MICROBATCH_MULTIPLE * MICROBATCH_MULTIPLE
    )
    of_rank = of_rank or max(1, BATCH // microbatch_size)
    num_shards = {STRONG: of_all, WEAK: of_rank * ranks[0]}
    smallest = [Point(kind, ranks[0], num_shards[kind], microbatch_size) for kind in MODES[mode]]
    return [point.with_ranks(count) for point in smallest for count in ranks]


def choose_shards(ranks: Sequence[int]) -> int:
    """Return the fewest shards that all of ``ranks`` divide, but not too many on each rank."""
    common, most = math.lcm(*ranks), MOST_SHARDS_PER_RANK * max(ranks)
    return min(max(most, FEWEST_SHARDS), -(-FEWEST_SHARDS // common) * common)


def in_order(points: Sequence[Point], repeats: int) -> Iterator[Job]:
    """Yield all points, then all in the opposite order, and so on: load affects them equally."""
    for repeat in range(1, repeats + 1):
        for point in points if repeat % 2 else reversed(points):
            yield Job(point, repeat)
