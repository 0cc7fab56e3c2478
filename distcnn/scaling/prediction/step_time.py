"""The time of a step on any number of ranks: what the rank with the most shards computes, and the
part of the sums that is not hidden behind it. ``docs/prediction.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distcnn.distributed import STATS_SIZE
from distcnn.distributed.shared_memory_reduction import MOST_KEPT
from distcnn.errors import InputError
from distcnn.scaling.points import Point
from distcnn.scaling.prediction.calibration import Calibration
from distcnn.scaling.prediction.interconnect import Interconnect
from distcnn.scaling.result import BESIDE, WAITING, ShardTimes
from distcnn.training.overlap import MOST_LANES

SHARED_MEMORY, AFTER_COMPUTING, OVERLAPPED = "shared memory", "after computing", "overlapped"
"""How gradients are summed over ranks."""
STATS_BYTES = 8 * STATS_SIZE
"""Of what a step sums besides the gradient."""


@dataclass(frozen=True)
class Prediction:
    """A step of ``point``.

    Attributes:
        hosts: how many the ranks fill.
        shares: fractions of the step by group, mean over ranks.
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
    """Predict a step.

    Args:
        calibration: of the machine and the model.
        point: the ranks and what they compute.
        ranks_per_host: how many ranks fill a host.
        interconnect: between hosts; None if there is one host.
        overlap: the flag's value; as calibrated if empty.

    Raises:
        InputError: an interconnect is needed and not known.
    """
    members, hosts = min(point.ranks, ranks_per_host), -(-point.ranks // ranks_per_host)
    on_host = calibration.host_interconnect(members)
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
    shard, most = calibration.shard(members), point.most_shards
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


def way_of(calibration: Calibration, point: Point, members: int, hosts: int, overlap: str) -> str:
    """Return how training would sum gradients there."""
    is_faster = hosts > 1 and calibration.reduction == "exact"
    if point.ranks > 1 and (overlap == "on" or (overlap == "auto" and is_faster)):
        return OVERLAPPED
    can_share = hosts == 1 and calibration.shard(members).shared_memory is not None
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
