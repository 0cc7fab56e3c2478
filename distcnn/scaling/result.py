"""What the ranks of a point report to the sweep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distcnn.scaling.points import Point
from distcnn.system.wording import counted

KIND = "distcnn.scaling.worker 2"
"""Marks the files of this version."""
GROUPS = ("compute", "local_sum", "communication", "waiting", "data")
"""Parts of a step's time, which add up to it: layers, loss and update; checking and adding
gradients on this rank; the sum over ranks; waiting for the slowest rank; reading examples.
"""

WAITING, BESIDE = "waiting", "beside"
"""The main thread waits for a sum, or another thread sums while the main thread computes."""


@dataclass(frozen=True)
class SumTimes:
    """How long sums over all ranks take: the interconnect test.

    Attributes:
        world_size: ranks of the test.
        hosts: each rank's host.
        library: the MPI library.
        rows: (bytes, seconds) of sums, by ``WAITING`` and ``BESIDE``.
        add_seconds_per_byte: what adding one vector to another takes on one rank.
    """

    world_size: int
    hosts: list[str]
    library: str
    rows: dict[str, list[tuple[int, float]]]
    add_seconds_per_byte: float


@dataclass(frozen=True)
class RankStep:
    """Where one step of one rank goes, in seconds.

    Attributes:
        step: the whole step.
        data: reading examples.
        forward: forward, loss, waiting, and what is in no other part.
        backward: by bucket, in the order in which buckets are reduced.
        local_sum: adding gradients on this rank.
        communication: sums over all ranks that are not hidden behind computing.
        update: the optimizer.
    """

    step: float
    data: float
    forward: float
    backward: list[float]
    local_sum: float
    communication: float
    update: float


@dataclass(frozen=True)
class Result:
    """One measurement of a point.

    Attributes:
        overlap: the flag's value.
        shared_memory: whether gradients were summed in memory that the ranks share.
        hosts: each rank's host.
        cores_of_hosts: how many cores the ranks of each host may use.
        software: the fingerprint of everything that may change bits.
        images_per_second: of all ranks, without instruments.
        step_seconds: mean length of a step, without instruments.
        shares: fractions of a step with instruments by group, mean over ranks.
        slowest_rank: a step with instruments of the rank that waited least.
        bucket_bytes: of the gradient in each bucket's sum.
        first_add_seconds: adding a whole gradient, the first of a step.
        other_add_seconds: the same for every further shard.
        sum_times: the interconnect test.
        params_sha256: of the weights after the last step.
    """

    model: str
    data: str
    train_examples: int
    world_size: int
    num_shards: int
    microbatch_size: int
    reduction: str
    overlap: str
    shared_memory: bool
    hosts: list[str]
    cores_of_hosts: dict[str, int]
    processor: str
    mpi: str
    software: dict[str, str]
    images_per_second: float
    step_seconds: float
    shares: dict[str, float]
    slowest_rank: RankStep
    bucket_bytes: list[int]
    first_add_seconds: float
    other_add_seconds: float
    sum_times: SumTimes
    params_sha256: str

    def to_json(self) -> dict[str, Any]:
        """A table for JSON, which ``read_result`` understands."""
        return {"kind": KIND, **dataclasses.asdict(self)}

    @property
    def ranks_per_host(self) -> int:
        """Ranks on the fullest host."""
        return max(map(self.hosts.count, self.hosts))


def read_result(table: Any, point: Point) -> Result:
    """Build the result from its JSON table.

    Raises:
        ValueError: it is incomplete, or of another point.
    """
    if not isinstance(table, Mapping) or table.get("kind") != KIND:
        raise ValueError("its result is not a measurement of this version of distcnn")
    try:
        values = {name: value for name, value in table.items() if name != "kind"}
        values["slowest_rank"] = RankStep(**values["slowest_rank"])
        values["sum_times"] = read_sum_times(values["sum_times"])
        result = Result(**values)
        numbers = [result.images_per_second, result.step_seconds, *result.shares.values()]
        if not all(map(math.isfinite, numbers)) or set(result.shares) != set(GROUPS):
            raise ValueError("numbers are missing")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its result is incomplete ({error})") from error
    if result.world_size != point.ranks or len(result.hosts) != point.ranks:
        raise ValueError(
            f"started {counted(point.ranks, 'rank')}, but {result.world_size} reported: make the"
            " launcher start as many ranks as {ranks} says"
        )
    for name in ("num_shards", "microbatch_size"):
        if getattr(result, name) != getattr(point, name):
            raise ValueError(
                f"{name} should be {getattr(point, name)}, but its result has"
                f" {getattr(result, name)}"
            )
    return result


def read_sum_times(table: Any) -> SumTimes:
    """Build an interconnect test from its JSON table.

    Raises:
        TypeError, ValueError, AttributeError: it is incomplete.
    """
    found = SumTimes(**table)
    rows = {
        way: [(int(nbytes), float(seconds)) for nbytes, seconds in rows]
        for way, rows in found.rows.items()
    }
    return dataclasses.replace(found, rows=rows)
