"""The time of a step on any number of ranks: what the rank with the most shards computes, and the
part of the sums that is not hidden behind it. ``docs/prediction.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distcnn.distributed import TALLY_SIZE
from distcnn.distributed.shared_memory_reduction import MOST_KEPT
from distcnn.errors import InputError
from distcnn.scaling.prediction.calibration import Calibration, ShardTimes
from distcnn.scaling.prediction.interconnect import Interconnect
from distcnn.scaling.result import BESIDE, WAITING
from distcnn.system.wording import counted
from distcnn.training.overlap import MOST_LANES

SHARED_MEMORY, AFTER_COMPUTING, OVERLAPPED = "shared memory", "after computing", "overlapped"
"""How gradients are summed over ranks."""
TALLY_BYTES = 8 * TALLY_SIZE
CHECK_BYTES = 8
"""Of the second sum of a step in shared memory."""
NEGLIGIBLE = 0.25
"""Of computing: a smaller loss is not a bottleneck."""


@dataclass(frozen=True)
class Place:
    """``ranks``, as far as they go ``ranks_per_host`` on each host, and their shards."""

    ranks: int
    ranks_per_host: int
    num_shards: int

    @property
    def on_fullest_host(self) -> int:
        """Ranks of the fullest host."""
        return min(self.ranks, self.ranks_per_host)

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return -(-self.ranks // self.ranks_per_host)

    @property
    def most_shards(self) -> int:
        """Shards of the rank that has the most."""
        return -(-self.num_shards // self.ranks)


@dataclass(frozen=True)
class Prediction:
    """A step. ``shares`` are seconds by group in the mean over ranks and add up to the step.

    Attributes:
        images: of one step.
        sums_seconds: what the sums take, hidden or not.
        latency_seconds: the part of ``sums_seconds`` that no bandwidth shortens.
    """

    place: Place
    images: int
    step_seconds: float
    shares: dict[str, float]
    sums_seconds: float
    latency_seconds: float

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self.images / self.step_seconds

    @property
    def bottleneck(self) -> str:
        """Where most of the time is lost; "computing" if little is."""
        latency = self.latency_seconds / self.sums_seconds if self.sums_seconds else 0.0
        lost = {
            "imbalance": self.shares["waiting"],
            "latency": self.shares["communication"] * latency,
            "bandwidth": self.shares["communication"] * (1 - latency),
            "local sum": self.shares["local_sum"],
        }
        name = max(lost, key=lost.__getitem__)
        return name if lost[name] > NEGLIGIBLE * self.shares["compute"] else "computing"


def predict(
    calibration: Calibration, place: Place, interconnect: Interconnect | None, overlap: str = ""
) -> Prediction:
    """Predict a step.

    Args:
        calibration: of the machine and the model.
        place: where it runs.
        interconnect: between hosts; None if there is one host.
        overlap: the flag's value; as calibrated if empty.

    Raises:
        InputError: an interconnect is needed and not known.
    """
    shard, most = calibration.shard(place.on_fullest_host), place.most_shards
    way = way_of(calibration, place, overlap or calibration.overlap)
    adding = shard.add_first + (most - 1) * shard.add_other
    whole = TALLY_BYTES + sum(calibration.bucket_bytes)
    if way == SHARED_MEMORY:
        adding, sizes = most * (shard.shared_memory or 0.0), [TALLY_BYTES, CHECK_BYTES]
    elif way == OVERLAPPED:
        sizes = [*calibration.bucket_bytes[:-1], calibration.bucket_bytes[-1] + TALLY_BYTES]
    else:
        sizes = [whole]
    sums, latency = sums_seconds(
        calibration, place, interconnect, sizes, BESIDE if way == OVERLAPPED else WAITING
    )
    busy = most * (shard.data + shard.compute) + adding
    end = busy + sum(sums)
    if way == OVERLAPPED:
        end = overlapped_end(bucket_times(shard, most, calibration.bucket_bytes), sums)
    mean = place.num_shards / place.ranks / most
    return Prediction(
        place,
        images=place.num_shards * calibration.microbatch_size,
        step_seconds=end + calibration.update,
        shares={
            "compute": mean * most * shard.compute + calibration.update,
            "local_sum": mean * adding,
            "communication": end - busy,
            "waiting": (1 - mean) * busy,
            "data": mean * most * shard.data,
        },
        sums_seconds=sum(sums),
        latency_seconds=latency,
    )


def way_of(calibration: Calibration, place: Place, overlap: str) -> str:
    """Return how training would sum gradients there."""
    if place.ranks > 1 and (
        overlap == "on"
        or (overlap == "auto" and place.hosts > 1 and calibration.reduction == "exact")
    ):
        return OVERLAPPED
    shared_memory = calibration.shard(place.on_fullest_host).shared_memory
    if place.hosts == 1 and place.most_shards <= MOST_KEPT and shared_memory is not None:
        return SHARED_MEMORY
    return AFTER_COMPUTING


def bucket_times(shard: ShardTimes, most: int, bucket_bytes: Sequence[int]) -> list[float]:
    """Return when each bucket of a rank's ``most`` shards is complete, in seconds from the start of
    the step. The last shards go through backward together, bucket by bucket.
    """
    lanes = min(most, MOST_LANES)
    before = most - lanes
    first = shard.add_first / sum(bucket_bytes)
    other = shard.add_other / sum(bucket_bytes)
    now = before * (shard.data + shard.compute + shard.add_other) + lanes * (
        shard.data + shard.forward
    )
    times = []
    for backward, nbytes in zip(shard.backward, bucket_bytes, strict=True):
        now += lanes * (backward + nbytes * other) + (first - other) * nbytes
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


def sums_seconds(
    calibration: Calibration,
    place: Place,
    interconnect: Interconnect | None,
    sizes: Sequence[float],
    way: str,
) -> tuple[list[float], float]:
    """Return the seconds of a sum of each of ``sizes`` (bytes), first on each host and then between
    hosts, and how much of all of them is latency.
    """
    on_host = calibration.host_interconnect(place.on_fullest_host)
    if place.on_fullest_host > 1 and on_host is None:
        raise InputError(
            f"--predict {place.ranks} with {counted(place.ranks_per_host, 'rank')} per host needs a"
            " point with several ranks on one host: measure --ranks 1,2 in a new --output, or use"
            " --ranks-per-host 1"
        )
    if place.hosts > 1 and interconnect is None:
        raise InputError(
            f"--predict {place.ranks} with {counted(place.ranks_per_host, 'rank')} per host needs"
            " the network between hosts: use --interconnect latency=1ms,bandwidth=10Gbit, or"
            " measure it with python -m distcnn.scaling.interconnect_test"
        )
    seconds, latency = [0.0] * len(sizes), 0.0
    for level, members in ((on_host, place.on_fullest_host), (interconnect, place.hosts)):
        if level is not None and members > 1:
            for index, nbytes in enumerate(sizes):
                of_latency, of_bytes = level.line(way).split(members, nbytes)
                seconds[index] += of_latency + of_bytes
                latency += of_latency
    return seconds, latency
