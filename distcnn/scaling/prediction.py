"""From a sweep on few ranks to step times on many: what the rank with the most shards computes, and
the part of the sums that is not hidden behind it. ``docs/prediction.md`` has the formulas.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from distcnn.distributed import STATS_SIZE
from distcnn.distributed.shared_memory_reduction import MOST_KEPT
from distcnn.errors import InputError
from distcnn.scaling.interconnect import Interconnect, fit_interconnect
from distcnn.scaling.points import Point
from distcnn.scaling.result import BESIDE, WAITING, Result, ShardTimes
from distcnn.scaling.summary import Row
from distcnn.system.wording import printable
from distcnn.training.overlap import MOST_LANES

CALIBRATING_POINTS = 2
"""The smallest numbers of ranks calibrate; measurements on more ranks check the prediction."""
SHARED_MEMORY, AFTER_COMPUTING, OVERLAPPED = "shared memory", "after computing", "overlapped"
"""How gradients are summed over ranks."""
STATS_BYTES = 8 * STATS_SIZE
"""Of what a step sums besides the gradient."""
T = TypeVar("T")


@dataclass(frozen=True)
class Calibration:
    """What a sweep shows about the machine.

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


def calibrate(results: Sequence[Result]) -> Calibration:
    """Calibrate on the points with the fewest ranks; ``InputError`` if there are no results."""
    if not results:
        raise InputError(
            "--predict needs measurements, and all of them failed: see the reasons above, then run"
            " the same command again"
        )
    points: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        points[result.world_size].append(result)
    ranks = sorted(points)[:CALIBRATING_POINTS]
    shards: dict[int, ShardTimes] = {}
    on_host: dict[int, Interconnect] = {}
    between: Interconnect | None = None
    for count in ranks:
        first = points[count][0]
        hosts = len(set(first.hosts))
        shards.setdefault(first.ranks_per_host, median_shard(points[count]))
        if count > 1 and hosts == 1:
            on_host[count] = median_interconnect(points[count])
        elif count > 1 and hosts == count:
            between = between or median_interconnect(points[count])
    first = points[ranks[0]][0]
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
    seconds: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for way, rows in result.sum_times.rows.items():
            for nbytes, took in rows:
                seconds[way][nbytes].append(took)
    medians = {
        way: [[nbytes, median(took)] for nbytes, took in sorted(of_way.items())]
        for way, of_way in seconds.items()
    }
    times = dataclasses.replace(results[0].sum_times, rows=medians)
    return fit_interconnect(times, "measured in this sweep")


@dataclass(frozen=True)
class Prediction:
    """A step of ``point`` on ``hosts`` hosts; ``shares`` are fractions of it by group, mean over
    ranks.
    """

    point: Point
    hosts: int
    step_seconds: float
    shares: dict[str, float]

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self.point.global_batch_size / self.step_seconds


def predict(
    calibration: Calibration,
    point: Point,
    ranks_per_host: int,
    interconnect: Interconnect | None,
    overlap: str = "",
) -> Prediction:
    """Predict a step with ``interconnect`` between hosts that hold ``ranks_per_host`` ranks.

    ``overlap`` is the flag's value; as calibrated if empty. ``InputError`` names what is needed and
    was not measured.
    """
    members, hosts = min(point.ranks, ranks_per_host), -(-point.ranks // ranks_per_host)
    on_host = _nearest(calibration.on_host, members) if calibration.on_host else None
    if members > 1 and on_host is None:
        raise InputError(
            f"--predict {point.ranks} with {members} ranks per host needs a point with several"
            " ranks on one host: measure --ranks 1,2 in a new --output, or use --ranks-per-host 1"
        )
    if hosts > 1 and interconnect is None:
        raise InputError(
            f"--predict {point.ranks} with {members} per host needs the network between hosts: use"
            " --interconnect latency=1ms,bandwidth=10Gbit, or measure it with python -m"
            " distcnn.scaling.interconnect_test"
        )
    shard, most = _nearest(calibration.shards, members), point.most_shards
    way = way_of(calibration, point, members, hosts, overlap or calibration.overlap)
    adding = most * shard.add
    sizes = [STATS_BYTES + sum(calibration.bucket_bytes)]
    if way == SHARED_MEMORY:
        adding, sizes = most * (shard.shared_memory or 0.0), [STATS_BYTES] * 2
    elif way == OVERLAPPED:
        sizes = [*calibration.bucket_bytes[:-1], calibration.bucket_bytes[-1] + STATS_BYTES]
    sums = [0.0] * len(sizes)
    for level, count in ((on_host, members), (interconnect, hosts)):
        if level is not None and count > 1:
            line = level.line(BESIDE if way == OVERLAPPED else WAITING)
            sums = [
                took + line.seconds(count, size) for took, size in zip(sums, sizes, strict=True)
            ]
    busy = most * (shard.data + shard.compute) + adding
    end = busy + sum(sums)
    if way == OVERLAPPED:
        end = overlapped_end(bucket_times(shard, most, calibration.bucket_bytes), sums)
    seconds = {
        "compute": point.balance * most * shard.compute + shard.update,
        "local_sum": point.balance * adding,
        "communication": end - busy,
        "waiting": (1 - point.balance) * busy,
        "data": point.balance * most * shard.data,
    }
    step = end + shard.update
    shares = {group: took / step for group, took in seconds.items()}
    return Prediction(point, hosts, step, shares)


def _nearest(measured: Mapping[int, T], wanted: int) -> T:
    """Return what was measured with the largest number up to ``wanted``, else the smallest."""
    return measured[max((one for one in measured if one <= wanted), default=min(measured))]


def way_of(calibration: Calibration, point: Point, members: int, hosts: int, overlap: str) -> str:
    """Return how training would sum gradients there."""
    is_faster = hosts > 1 and calibration.reduction == "exact"
    if point.ranks > 1 and (overlap == "on" or (overlap == "auto" and is_faster)):
        return OVERLAPPED
    can_share = hosts == 1 and _nearest(calibration.shards, members).shared_memory is not None
    return SHARED_MEMORY if can_share and point.most_shards <= MOST_KEPT else AFTER_COMPUTING


def bucket_times(shard: ShardTimes, most: int, bucket_bytes: Sequence[int]) -> list[float]:
    """Return when each bucket of a rank's ``most`` shards is complete, in seconds from the start of
    the step. The last shards go through backward together, bucket by bucket.
    """
    lanes = min(most, MOST_LANES)
    add_byte = shard.add / sum(bucket_bytes)
    now = (most - lanes) * (shard.data + shard.compute + shard.add)
    now += lanes * (shard.data + shard.forward)
    times = []
    for backward, nbytes in zip(shard.backward, bucket_bytes, strict=True):
        now += lanes * (backward + nbytes * add_byte)
        times.append(now)
    return times


def overlapped_end(starts: Sequence[float], seconds: Sequence[float]) -> float:
    """Return when the last sum ends: each begins when its bucket is complete and the one before it
    has ended.
    """
    end = 0.0
    for start, length in zip(starts, seconds, strict=True):
        end = max(end, start) + length
    return end


@dataclass(frozen=True)
class Series:
    """One mode with one interconnect between the hosts (None: all ranks are on one host).

    Efficiency is relative to ``base``, on the smallest number of ranks that was measured.
    """

    mode: str
    interconnect: Interconnect | None
    base: Prediction
    predictions: list[Prediction]

    @property
    def name(self) -> str:
        """Of the interconnect."""
        return printable(self.interconnect.name) if self.interconnect else "one host"

    def efficiency(self, prediction: Prediction) -> float:
        """Images per second and rank, relative to the base."""
        speeds = [one.images_per_second / one.point.ranks for one in (prediction, self.base)]
        return speeds[0] / speeds[1]


@dataclass(frozen=True)
class Compared:
    """A measured point and its prediction; ``is_calibrated`` points prove nothing."""

    point: Point
    hosts: int
    is_calibrated: bool
    measured_seconds: float
    predicted_seconds: float
    error: float


@dataclass(frozen=True)
class Projection:
    """Everything that is predicted; strong scaling has too few shards for ``left_out`` ranks."""

    calibration: Calibration
    ranks_per_host: int
    series: list[Series]
    compared: list[Compared]
    left_out: list[int]
    kind: str = "distcnn.scaling.prediction"


def project(
    calibration: Calibration,
    rows: Sequence[Row],
    ranks: Sequence[int],
    ranks_per_host: int,
    interconnects: Sequence[Interconnect],
) -> Projection:
    """Make all predictions; ``ranks_per_host`` 0 and no ``interconnects``: as measured."""
    per_host = ranks_per_host or max(calibration.shards)
    between: Sequence[Interconnect | None] = interconnects or [calibration.between]
    smallest: dict[str, Point] = {}
    for row in rows:
        smallest.setdefault(row.point.mode, row.point)
    series, left_out = [], []
    for mode, base in smallest.items():
        points = [base.with_ranks(count) for count in ranks]
        left_out += [point.ranks for point in points if point.num_shards < point.ranks]
        for interconnect in between:
            first, *predictions = (
                predict(calibration, point, per_host, interconnect)
                for point in [base, *points]
                if point.num_shards >= point.ranks
            )
            series.append(Series(mode, interconnect, first, predictions))
    return Projection(calibration, per_host, series, list(_compare(calibration, rows)), left_out)


def _compare(calibration: Calibration, rows: Sequence[Row]) -> Iterator[Compared]:
    """Yield the measured points, except on hosts whose interconnect was not measured."""
    for point, measured in ((row.point, row.measured) for row in rows):
        if measured is None:
            continue
        try:
            found = predict(calibration, point, measured.ranks_per_host, calibration.between)
        except InputError:  # these sums were not measured
            continue
        yield Compared(
            point,
            measured.hosts,
            point.ranks in calibration.ranks,
            measured.step_seconds,
            found.step_seconds,
            found.step_seconds / measured.step_seconds - 1,
        )
