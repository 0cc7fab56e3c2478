"""From a sweep on few ranks to step times on many: what the rank with the most shards computes, and
the part of the sums that is not hidden behind it. ``docs/prediction.md`` has the formulas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from distcnn.distributed import STATS_SIZE
from distcnn.distributed.shared_memory_reduction import MOST_KEPT
from distcnn.errors import InputError
from distcnn.scaling.interconnect import BESIDE, WAITING, Interconnect, fit_interconnect
from distcnn.scaling.points import Point
from distcnn.scaling.records import Result, ShardTimes
from distcnn.scaling.summary import Row
from distcnn.system.wording import printable
from distcnn.training.overlap import MOST_LANES

MEASURED = "measured in this sweep"
# The smallest numbers of ranks calibrate; measurements on more ranks check the prediction.
CALIBRATING_POINTS = 2
# How gradients are summed over ranks.
SHARED_MEMORY, AFTER_COMPUTING, OVERLAPPED = "shared memory", "after computing", "overlapped"
STATS_BYTES = 8 * STATS_SIZE  # of what a step sums besides the gradient
T = TypeVar("T")


@dataclass(frozen=True)
class Calibration:
    """What the points on ``ranks`` show about the machine."""

    model: str
    reduction: str
    overlap: str  # the flag's value
    bucket_bytes: list[int]
    shards: Mapping[int, ShardTimes]  # by ranks per host, which share its memory
    on_host: Mapping[int, Interconnect]  # within one host, by ranks per host
    between: Interconnect | None  # hosts, if there was one rank on each of several
    ranks: list[int]


def calibrate(results: Sequence[Result]) -> Calibration:
    """Calibrate on the points with the fewest ranks; ``InputError`` if there are no results."""
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
        one: Result = medians([result for result in results if result.world_size == count])
        hosts = len(set(one.hosts))
        shards.setdefault(one.ranks_per_host, one.shard)
        if count > 1 and hosts == 1:
            on_host[count] = fit_interconnect(one.sum_times, MEASURED)
        elif count > 1 and hosts == count:
            between = between or fit_interconnect(one.sum_times, MEASURED)
    one = min(results, key=lambda result: result.world_size)
    given = (one.model, one.reduction, one.overlap, one.bucket_bytes)
    return Calibration(*given, shards, on_host, between, ranks)


def medians(items: Sequence[Any]) -> Any:
    """Return the median of every number in ``items``, which have one shape; all else is as in the
    first of them.
    """
    first = items[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        return dataclasses.replace(first, **medians([vars(item) for item in items]))
    if isinstance(first, dict):
        return {key: medians([item[key] for item in items if key in item]) for key in first}
    if isinstance(first, list):
        return [medians(parts) for parts in zip(*items, strict=False)]
    return median(items) if isinstance(first, float) and None not in items else first


@dataclass(frozen=True)
class Prediction:
    """A step of ``point``."""

    point: Point
    hosts: int
    step_seconds: float
    shares: dict[str, float]  # of the step by group, mean over ranks

    @property
    def images_per_second(self) -> float:
        return self.point.global_batch_size / self.step_seconds


def predict(
    calibration: Calibration, point: Point, ranks_per_host: int, between: Interconnect | None
) -> Prediction:
    """Predict a step on hosts that hold ``ranks_per_host`` ranks, with ``between`` between them;
    ``InputError`` names what is needed and was not measured.
    """
    members, hosts = min(point.ranks, ranks_per_host), -(-point.ranks // ranks_per_host)
    on_host = nearest(calibration.on_host, members) if calibration.on_host else None
    if members > 1 and on_host is None:
        raise InputError(
            f"--predict {point.ranks} with {members} ranks per host needs a point with several"
            " ranks on one host: measure --ranks 1,2 in a new --output, or use --ranks-per-host 1"
        )
    if hosts > 1 and between is None:
        raise InputError(
            f"--predict {point.ranks} with {members} per host needs the network between hosts: use"
            " --interconnect latency=1ms,bandwidth=10Gbit, or measure it with python -m"
            " distcnn.scaling.interconnect_test"
        )
    shard, most = nearest(calibration.shards, members), point.most_shards
    way = way_of(calibration, point, members, hosts)
    adding = most * shard.add
    sizes = [STATS_BYTES + sum(calibration.bucket_bytes)]
    if way == SHARED_MEMORY:
        adding, sizes = most * (shard.shared_memory or 0.0), [STATS_BYTES] * 2
    elif way == OVERLAPPED:
        sizes = [*calibration.bucket_bytes[:-1], calibration.bucket_bytes[-1] + STATS_BYTES]
    sums = [0.0] * len(sizes)
    for level, count in ((on_host, members), (between, hosts)):
        if level is not None and count > 1:
            line = level.line(BESIDE if way == OVERLAPPED else WAITING)
            for number, size in enumerate(sizes):
                sums[number] += line.seconds(count, size)
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
    return Prediction(point, hosts, step, {group: took / step for group, took in seconds.items()})


def nearest(measured: Mapping[int, T], wanted: int) -> T:
    """Return what was measured with the largest number up to ``wanted``, else the smallest."""
    return measured[max((one for one in measured if one <= wanted), default=min(measured))]


def way_of(calibration: Calibration, point: Point, members: int, hosts: int) -> str:
    """Return how training would sum gradients there."""
    is_faster = hosts > 1 and calibration.reduction == "exact"
    overlaps = calibration.overlap == "on" or (calibration.overlap == "auto" and is_faster)
    if point.ranks > 1 and overlaps:
        return OVERLAPPED
    can_share = hosts == 1 and nearest(calibration.shards, members).shared_memory is not None
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
    """One mode with one interconnect between the hosts; None if all ranks are on one host."""

    mode: str
    interconnect: Interconnect | None
    base: Prediction  # on the smallest number of ranks that was measured
    predictions: list[Prediction]

    @property
    def name(self) -> str:
        return printable(self.interconnect.name) if self.interconnect else "one host"

    def efficiency(self, prediction: Prediction) -> float:
        """Images per second and rank, relative to the base."""
        speeds = [one.images_per_second / one.point.ranks for one in (prediction, self.base)]
        return speeds[0] / speeds[1]


@dataclass(frozen=True)
class Compared:
    """A measured point and its prediction; one that calibrated proves nothing."""

    point: Point
    hosts: int
    is_calibrated: bool
    measured_seconds: float
    predicted_seconds: float
    error: float  # as a fraction of the measured time


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
    networks: Sequence[Interconnect | None] = interconnects or [calibration.between]
    series: list[Series] = []
    left_out: list[int] = []
    for base in (row.point for row in rows if row.point.ranks == rows[0].point.ranks):
        points = [base, *map(base.with_ranks, ranks)]
        left_out += [point.ranks for point in points if point.num_shards < point.ranks]
        for between in networks:
            first, *others = (
                predict(calibration, point, per_host, between)
                for point in points
                if point.num_shards >= point.ranks
            )
            series.append(Series(base.mode, between, first, others))
    compared = []
    for point, measured in ((row.point, row.measured) for row in rows):
        if measured is None:
            continue
        with suppress(InputError):  # the interconnect of its hosts was not measured
            found = predict(calibration, point, measured.ranks_per_host, calibration.between)
            is_calibrated, seconds = point.ranks in calibration.ranks, found.step_seconds
            error = seconds / measured.step_seconds - 1
            compared.append(
                Compared(point, found.hosts, is_calibrated, measured.step_seconds, seconds, error)
            )
    return Projection(calibration, per_host, series, compared, left_out)
