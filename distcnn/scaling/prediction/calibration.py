"""From the results of a sweep to what a step is made of: seconds of one shard, of one update, of
sums on one host.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from distcnn.errors import InputError
from distcnn.scaling.prediction.interconnect import Interconnect, fit_interconnect
from distcnn.scaling.result import RankStep, Result, SumTimes

CALIBRATING_POINTS = 2
"""The smallest numbers of ranks calibrate; measurements on more ranks check the prediction."""


@dataclass(frozen=True)
class ShardTimes:
    """Seconds of one shard on one rank.

    Attributes:
        data: reading its examples.
        forward: with the loss and everything between the parts.
        backward: by bucket, in the order in which buckets are reduced.
        add_first: adding its gradient to the rank's sum if it is the first of a step.
        add_other: adding it otherwise.
        shared_memory: its part of the sum in shared memory; None if that was not measured.
    """

    data: float
    forward: float
    backward: tuple[float, ...]
    add_first: float
    add_other: float
    shared_memory: float | None

    @property
    def compute(self) -> float:
        """Forward and backward."""
        return self.forward + sum(self.backward)


@dataclass(frozen=True)
class Calibration:
    """What is known of the machine and the model.

    Attributes:
        overlap: the flag's value.
        bucket_bytes: of the gradient in each bucket's sum.
        shards: by ranks per host, which share its memory.
        update: seconds of one update.
        on_host: sums within one host, by ranks per host.
        between: sums between hosts, if there was one rank on each of several.
        ranks: of the points that calibrate.
    """

    model: str
    reduction: str
    overlap: str
    microbatch_size: int
    bucket_bytes: tuple[int, ...]
    shards: Mapping[int, ShardTimes]
    update: float
    on_host: Mapping[int, Interconnect]
    between: Interconnect | None
    add_seconds_per_byte: float
    ranks: tuple[int, ...]

    def shard(self, ranks_per_host: int) -> ShardTimes:
        """Return the times with the nearest measured number of ranks per host."""
        return self.shards[_nearest(self.shards, ranks_per_host)]

    def host_interconnect(self, ranks_per_host: int) -> Interconnect | None:
        """Return what connects the ranks of one host; None if that was not measured."""
        return self.on_host[_nearest(self.on_host, ranks_per_host)] if self.on_host else None


def calibrate(results: Sequence[Result]) -> Calibration:
    """Calibrate on the points with the fewest ranks.

    Args:
        results: of all measurements that succeeded.

    Raises:
        InputError: there are none.
    """
    if not results:
        raise InputError(
            "--predict needs measurements, and all of them failed: see the reasons above, then run"
            " the same command again"
        )
    found: dict[int, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.world_size):
        found[result.world_size].append(result)
    points = dict(list(found.items())[:CALIBRATING_POINTS])
    shards: dict[int, ShardTimes] = {}
    on_host: dict[int, Interconnect] = {}
    between: Interconnect | None = None
    for ranks, of_point in points.items():
        hosts = len(set(of_point[0].hosts))
        shards.setdefault(of_point[0].ranks_per_host, shard_times(of_point))
        if ranks > 1 and hosts == 1:
            on_host[ranks] = median_interconnect(of_point)
        if ranks > 1 and hosts == ranks:
            between = between or median_interconnect(of_point)
    smallest = next(iter(points.values()))
    first = smallest[0]
    return Calibration(
        model=first.model,
        reduction=first.reduction,
        overlap=first.overlap,
        microbatch_size=first.microbatch_size,
        bucket_bytes=tuple(first.bucket_bytes),
        shards=shards,
        update=median(scaled(result).update for result in smallest),
        on_host=on_host,
        between=between,
        add_seconds_per_byte=median(result.sum_times.add_seconds_per_byte for result in smallest),
        ranks=tuple(points),
    )


def shard_times(results: Sequence[Result]) -> ShardTimes:
    """Return the medians over the measurements of one point, of the rank that waited least."""
    steps = [scaled(result) for result in results]
    shards = [-(-result.num_shards // result.world_size) for result in results]

    def of_shard(seconds: Iterable[float]) -> float:
        return median(took / count for took, count in zip(seconds, shards, strict=True))

    is_shared = all(result.shared_memory for result in results)
    return ShardTimes(
        data=of_shard(step.data for step in steps),
        forward=of_shard(step.forward for step in steps),
        backward=tuple(map(of_shard, zip(*(step.backward for step in steps), strict=True))),
        add_first=median(result.first_add_seconds for result in results),
        add_other=median(result.other_add_seconds for result in results),
        shared_memory=of_shard(step.local_sum for step in steps) if is_shared else None,
    )


def scaled(result: Result) -> RankStep:
    """Return the slowest rank's step as long as a step without instruments."""
    step = result.slowest_rank
    factor = result.step_seconds / step.step
    scalars = {
        name: factor * value for name, value in vars(step).items() if isinstance(value, float)
    }
    return dataclasses.replace(step, **scalars, backward=[factor * one for one in step.backward])


def median_interconnect(results: Sequence[Result]) -> Interconnect:
    """Fit an interconnect to the medians of all measurements' sums."""
    tests = [result.sum_times for result in results]
    return fit_interconnect(median_times(tests), "measured in this sweep")


def median_times(tests: Sequence[SumTimes]) -> SumTimes:
    """Return the first test with the median of each size over all ``tests``."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for way in tests[0].rows:
        seconds: dict[int, list[float]] = defaultdict(list)
        for test in tests:
            for nbytes, took in test.rows.get(way, ()):
                seconds[nbytes].append(took)
        rows[way] = [(nbytes, median(took)) for nbytes, took in sorted(seconds.items())]
    return dataclasses.replace(tests[0], rows=rows)


def _nearest(measured: Mapping[int, object], wanted: int) -> int:
    """Return the largest measured number up to ``wanted``, else the smallest."""
    return max((number for number in measured if number <= wanted), default=min(measured))
