"""What a sweep shows about the machine: seconds of one shard, of one update, of sums on one host
and between hosts.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from distcnn.errors import InputError
from distcnn.scaling.prediction.interconnect import Interconnect, fit_interconnect
from distcnn.scaling.result import Result, ShardTimes

CALIBRATING_POINTS = 2
"""The smallest numbers of ranks calibrate; measurements on more ranks check the prediction."""


@dataclass(frozen=True)
class Calibration:
    """Times of the machine for the model.

    Attributes:
        overlap: the flag's value.
        bucket_bytes: of the gradient in each bucket's sum.
        shards: by ranks per host, which share its memory.
        on_host: sums within one host, by ranks per host.
        between: sums between hosts, if there was one rank on each of several.
        ranks: of the points that calibrate.
    """

    model: str
    reduction: str
    overlap: str
    bucket_bytes: list[int]
    shards: Mapping[int, ShardTimes]
    on_host: Mapping[int, Interconnect]
    between: Interconnect | None
    ranks: list[int]

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
    ranks = sorted({result.world_size for result in results})[:CALIBRATING_POINTS]
    shards: dict[int, ShardTimes] = {}
    on_host: dict[int, Interconnect] = {}
    between: Interconnect | None = None
    for count in ranks:
        of_point = [result for result in results if result.world_size == count]
        hosts = len(set(of_point[0].hosts))
        shards.setdefault(of_point[0].ranks_per_host, median_shard(of_point))
        if count > 1 and hosts == 1:
            on_host[count] = median_interconnect(of_point)
        if count > 1 and hosts == count:
            between = between or median_interconnect(of_point)
    first = min(results, key=lambda result: result.world_size)
    return Calibration(
        first.model,
        first.reduction,
        first.overlap,
        first.bucket_bytes,
        shards,
        on_host,
        between,
        ranks,
    )


def median_shard(results: Sequence[Result]) -> ShardTimes:
    """Return the median of every time over the measurements of one point."""
    shards = [result.shard for result in results]
    shared = [shard.shared_memory for shard in shards if shard.shared_memory is not None]
    return ShardTimes(
        data=median(shard.data for shard in shards),
        forward=median(shard.forward for shard in shards),
        backward=list(map(median, zip(*(shard.backward for shard in shards), strict=True))),
        add=median(shard.add for shard in shards),
        shared_memory=median(shared) if len(shared) == len(shards) else None,
        update=median(shard.update for shard in shards),
    )


def median_interconnect(results: Sequence[Result]) -> Interconnect:
    """Fit an interconnect to the median of each size over all measurements."""
    first = results[0].sum_times
    rows: dict[str, list[list[float]]] = {}
    for way in first.rows:
        seconds: dict[float, list[float]] = defaultdict(list)
        for result in results:
            for nbytes, took in result.sum_times.rows.get(way, ()):
                seconds[nbytes].append(took)
        rows[way] = [[nbytes, median(took)] for nbytes, took in sorted(seconds.items())]
    return fit_interconnect(dataclasses.replace(first, rows=rows), "measured in this sweep")


def _nearest(measured: Mapping[int, object], wanted: int) -> int:
    """Return the largest measured number up to ``wanted``, else the smallest."""
    return max((number for number in measured if number <= wanted), default=min(measured))
