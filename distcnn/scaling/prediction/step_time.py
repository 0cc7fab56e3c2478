"""The time of a step on any number of ranks: the computing of the rank that has most shards, and
what of the sums it does not hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distcnn.distributed import STATS_SIZE
from distcnn.distributed.allreduce_benchmark import BESIDE, WAITING
from distcnn.distributed.shared_memory_reduction import MOST_KEPT
from distcnn.errors import InputError
from distcnn.scaling.prediction.calibration import Calibration, Shard, expected_lateness
from distcnn.scaling.prediction.interconnect import Network
from distcnn.system.wording import counted
from distcnn.training.overlap import MOST_LANES

KEPT, WHOLE, OVERLAPPED, ALONE = (
    "in shared memory",
    "after computing",
    "beside computing",
    "one rank",
)
"""How gradients are summed over ranks."""
TALLY_BYTES = 8 * STATS_SIZE


@dataclass(frozen=True)
class Place:
    """``ranks`` with ``ranks_of_host`` on each host (as far as they go), and what they compute."""

    ranks: int
    ranks_of_host: int
    num_shards: int

    @property
    def here(self) -> int:
        """Ranks of the fullest host."""
        return min(self.ranks, self.ranks_of_host)

    @property
    def hosts(self) -> int:
        """How many there are."""
        return -(-self.ranks // self.ranks_of_host)

    @property
    def most_shards(self) -> int:
        """Of the rank that has the most."""
        return -(-self.num_shards // self.ranks)


@dataclass(frozen=True)
class Prediction:
    """Of a step: its length, and where that goes in the mean over ranks (the parts add up to it).

    Seconds.
    """

    place: Place
    examples: int
    """Of a step; no more than the training set has."""
    room: int
    """For so many examples; the rest is padding."""
    step_seconds: float
    compute: float
    local_sum: float
    communication: float
    """What the sums leave not hidden."""
    waiting: float
    """For the rank that has most shards."""
    data: float
    sums: float
    """What the sums take, hidden or not; ``latency`` is the part that no bandwidth shortens."""
    latency: float
    late: float
    """What the slowest rank is expected to add, did all vary as one does: not in ``step_seconds``.
    """
    way: str

    @property
    def images_per_second(self) -> float:
        """Of all ranks."""
        return self.examples / self.step_seconds

    @property
    def bottleneck(self) -> str:
        """Where most of what is lost goes; computing, where that is most of the step and little is
        lost.
        """
        if self.examples < self.room / 2:
            return "training set"
        share = self.latency / self.sums if self.sums else 0.0
        lost = {
            "imbalance": self.waiting,
            "latency": self.communication * share,
            "bandwidth": self.communication * (1 - share),
            "local sum": self.local_sum,
        }
        name = max(lost, key=lost.__getitem__)
        return name if lost[name] > self.compute / 4 else "computing"


def predict(
    calibration: Calibration, place: Place, network: Network | None, overlap: str = ""
) -> Prediction:
    """The step at ``place`` between whose hosts lies ``network``.

    ``InputError`` when a network that is needed is not known.
    """
    shard, most = calibration.shard(place.here), place.most_shards
    way = way_of(calibration, place, overlap or calibration.overlap)
    if way == KEPT:
        seconds, latency = sums_seconds(calibration, place, network, [TALLY_BYTES, 8], WAITING)
        own = most * (shard.kept or 0.0)
        adding, end = own, most * (shard.data + shard.compute) + own + sum(seconds)
    elif way in (WHOLE, ALONE):
        seconds, latency = sums_seconds(
            calibration, place, network, [TALLY_BYTES + sum(calibration.bucket_bytes)], WAITING
        )
        adding = shard.add_first + (most - 1) * shard.add_other
        end = most * (shard.data + shard.compute) + adding + sum(seconds)
    else:
        sizes = [*calibration.bucket_bytes[:-1], calibration.bucket_bytes[-1] + TALLY_BYTES]
        seconds, latency = sums_seconds(calibration, place, network, sizes, BESIDE)
        adding = shard.add_first + (most - 1) * shard.add_other
        end = overlapped_end(bucket_times(shard, most, calibration.bucket_bytes), seconds)
    busy = most * (shard.data + shard.compute) + adding
    step = end + calibration.update
    mean = place.num_shards / place.ranks / most
    return Prediction(
        place,
        min(place.num_shards * calibration.microbatch_size, calibration.train_examples),
        place.num_shards * calibration.microbatch_size,
        step,
        mean * most * shard.compute + calibration.update,
        mean * adding,
        end - busy,
        (1 - mean) * busy,
        mean * most * shard.data,
        sum(seconds),
        latency,
        (busy + calibration.update) * expected_lateness(place.ranks, calibration.spread),
        way,
    )


def way_of(calibration: Calibration, place: Place, overlap: str) -> str:
    """How training sums there (``training/setup.py``)."""
    if place.ranks > 1 and (
        overlap == "on"
        or (overlap == "auto" and place.hosts > 1 and calibration.reduction == "exact")
    ):
        return OVERLAPPED
    if (
        place.hosts == 1
        and place.most_shards <= MOST_KEPT
        and calibration.shard(place.here).kept is not None
    ):
        return KEPT
    return WHOLE if place.ranks > 1 else ALONE


def bucket_times(shard: Shard, most: int, bucket_bytes: Sequence[int]) -> list[float]:
    """When each bucket of the rank's ``most`` shards is complete: the last ones go through backward
    together, bucket by bucket.
    """
    lanes = min(most, MOST_LANES)
    first = shard.add_first / sum(bucket_bytes)
    other = shard.add_other / sum(bucket_bytes)
    whole = most - lanes
    now = whole * (shard.data + shard.compute + shard.add_other) + lanes * (
        shard.data + shard.forward
    )
    times = []
    for backward, nbytes in zip(shard.backward, bucket_bytes, strict=True):
        # Whose gradient a bucket gets first costs less: of the shards taken whole, if there are
        # any.
        now += lanes * (backward + nbytes * other) + (first - other) * nbytes
        times.append(now)
    return times


def overlapped_end(starts: Sequence[float], seconds: Sequence[float]) -> float:
    """When the last sum is done: each begins when its bucket is complete and the sum before it is
    done.
    """
    end = 0.0
    for start, length in zip(starts, seconds, strict=True):
        end = max(end, start) + length
    return end


def sums_seconds(
    calibration: Calibration,
    place: Place,
    network: Network | None,
    sizes: Sequence[float],
    way: str,
) -> tuple[list[float], float]:
    """Seconds of a sum of each of ``sizes`` (bytes), and how much of all of them is latency: on
    each host, and then between hosts.
    """
    seconds, latency = [0.0] * len(sizes), 0.0
    on_host = calibration.host_network(place.here)
    if place.here > 1 and on_host is None:
        raise InputError(
            f"--predict {place.ranks} with {counted(place.ranks_of_host, 'rank')} on each host"
            " needs a point with several ranks on one host, such as --ranks 1,2 on this host:"
            " measure it in a new --output, or say --ranks-per-host 1"
        )
    if place.hosts > 1 and network is None:
        raise InputError(
            f"--predict {place.ranks} at {place.ranks_of_host} a host needs several hosts, and no"
            " network between hosts was measured: give --network latency=1ms,bandwidth=10Gbit, or"
            " --network FILE, written on two hosts by python -m distcnn.scaling.interconnect_test"
        )
    levels = [(on_host, place.here), (network, place.hosts)]
    for each, members in levels:
        if each is not None and members > 1:
            for index, nbytes in enumerate(sizes):
                of_latency, of_bytes = each.line(way).split(members, nbytes, each.algorithm)
                seconds[index] += of_latency + of_bytes
                latency += of_latency
    return seconds, latency
