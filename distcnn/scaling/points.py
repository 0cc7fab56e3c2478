"""The plan of a sweep: its points, what each computes, and in which order they are measured.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRONG, WEAK = "strong", "weak"
MODES = {STRONG: (STRONG,), WEAK: (WEAK,), "both": (STRONG, WEAK)}
BATCH = 256
"""Examples of a step, unless flags say otherwise: in strong scaling of all ranks, in weak scaling
of each.
"""
LEAST_MICROBATCH, MICROBATCH_UNIT = 16, 8
"""A microbatch is not chosen smaller, for products then get slow; and a multiple of 8, as many as a
processor takes at once.
"""
SHARDS, SHARDS_OF_MODEL = 4, {"wide": 8}
"""Not chosen fewer: the benchmark's shards, of 64 and 32 examples."""
MOST_TIMES = 4
"""Shards are not chosen more than so many times the largest number of ranks: each makes a step
longer by its own overhead.
"""


@dataclass(frozen=True)
class Point:
    """A number of ranks, and what they compute."""

    mode: str
    ranks: int
    num_shards: int
    microbatch_size: int

    @property
    def global_batch_size(self) -> int:
        """Examples of one step, over all ranks."""
        return self.num_shards * self.microbatch_size

    @property
    def most_shards(self) -> int:
        """Of the rank that has the most: all others wait for it."""
        return -(-self.num_shards // self.ranks)

    @property
    def balance(self) -> float:
        """The highest efficiency that the cut into shards allows: 1 when all ranks have as many."""
        return self.num_shards / (self.ranks * self.most_shards)


@dataclass(frozen=True)
class Measurement:
    """One of several measurements of a point; ``repeat`` counts from 1."""

    point: Point
    repeat: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.point.mode}-{self.point.ranks}-ranks-repeat-{self.repeat}"


def plan_points(
    mode: str, ranks: Sequence[int], flags: Mapping[str, Any], shards_per_rank: int = 0
) -> list[Point]:
    """The points of ``mode``, by number of ranks. ``flags`` are those of training that were given;
    the rest is chosen here.

    Strong: ``num_shards`` at every point. Weak: ``shards_per_rank`` times the ranks, else
    ``num_shards`` at the smallest point and in proportion from there on, else as many as make a
    batch of 256 on each rank. The microbatch is of one size at all points.
    """
    given, least = flags.get("num_shards", 0), SHARDS_OF_MODEL.get(flags.get("model", ""), SHARDS)
    at_all_points = given or choose_shards(ranks, least)
    of_rank = shards_per_rank or (max(1, given // min(ranks)) if given else 0)
    cut = (of_rank or least) if mode == WEAK else at_all_points
    microbatch = flags.get("microbatch_size") or max(
        LEAST_MICROBATCH, BATCH // cut // MICROBATCH_UNIT * MICROBATCH_UNIT
    )
    of_rank = of_rank or max(1, BATCH // microbatch)
    return [
        Point(each, count, at_all_points if each == STRONG else count * of_rank, microbatch)
        for each in MODES[mode]
        for count in ranks
    ]


def choose_shards(ranks: Sequence[int], least: int) -> int:
    """A number of shards for all of ``ranks``, not below ``least``: that whose worst balance is
    best, of such the smallest.

    A common multiple, where one is not too large.
    """
    smallest = max(least, *ranks)
    candidates = range(smallest, max(smallest, MOST_TIMES * max(ranks)) + 1)
    return max(
        candidates,
        key=lambda shards: (min(Point(STRONG, each, shards, 1).balance for each in ranks), -shards),
    )


def in_order(points: Sequence[Point], repeats: int) -> Iterator[Measurement]:
    """All points, then all again in the other direction, and so on: what else the machine does, and
    how it warms up, meets all alike.
    """
    for repeat in range(1, repeats + 1):
        for point in points if repeat % 2 else reversed(points):
            yield Measurement(point, repeat)
