"""What the ranks of a point report to the sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from distcnn.scaling.points import Point
from distcnn.system.json_values import from_json
from distcnn.system.wording import counted

KIND = "distcnn.scaling.worker 2"
"""Marks the files of this version."""
GROUPS = ("compute", "local_sum", "communication", "waiting", "data")
"""Parts of a step's time, which add up to it: layers, loss and update; adding gradients on this
rank; the sum over ranks; waiting for the slowest rank; reading examples.
"""
WAITING, BESIDE = "waiting", "beside"
"""The main thread waits for a sum, or another thread sums while the main thread computes."""
WAY_NAMES = {WAITING: "blocking", BESIDE: "overlapped"}
"""What is printed for them."""


@dataclass(frozen=True)
class SumTimes:
    """The interconnect test: (bytes, seconds) of sums over all ranks by ``WAITING`` and ``BESIDE``,
    and each rank's host.
    """

    world_size: int
    hosts: list[str]
    library: str
    rows: dict[str, list[list[float]]]


@dataclass(frozen=True)
class ShardTimes:
    """Seconds of one shard on the rank that waits least, at the speed without instruments.

    Attributes:
        data: reading its examples.
        forward: with the loss, the waiting, and everything that is in no other part.
        backward: by bucket, in the order in which buckets are reduced.
        add: adding its gradient to the rank's sum.
        shared_memory: its part of the sum in shared memory; None if gradients are summed otherwise.
        update: the whole update of a step.
    """

    data: float
    forward: float
    backward: list[float]
    add: float
    shared_memory: float | None
    update: float

    @property
    def compute(self) -> float:
        """Forward and backward."""
        return self.forward + sum(self.backward)


@dataclass(frozen=True)
class Result:
    """One measurement of a point.

    Attributes:
        hosts: each rank's host.
        cores_of_hosts: how many cores the ranks of each host may use.
        software: the fingerprint of everything that may change bits.
        images_per_second: of all ranks, without instruments; ``step_seconds`` too.
        shares: fractions of a step with instruments by group, mean over ranks.
        bucket_bytes: of the gradient in each bucket's sum.
        params_sha256: of the weights after the last step.
    """

    model: str
    data: str
    world_size: int
    num_shards: int
    microbatch_size: int
    reduction: str
    overlap: str
    hosts: list[str]
    cores_of_hosts: dict[str, int]
    processor: str
    mpi: str
    software: dict[str, str]
    images_per_second: float
    step_seconds: float
    shares: dict[str, float]
    shard: ShardTimes
    bucket_bytes: list[int]
    sum_times: SumTimes
    params_sha256: str
    kind: str = KIND

    @property
    def ranks_per_host(self) -> int:
        """Ranks on the fullest host."""
        return max(map(self.hosts.count, self.hosts))


def read_result(table: Any, point: Point) -> Result:
    """Build the result of ``point`` from its JSON table. ``ValueError`` says why it is none."""
    if not isinstance(table, dict) or table.get("kind") != KIND:
        raise ValueError("its result is not a measurement of this version of distcnn")
    try:
        result = from_json(Result, table)
    except TypeError as error:
        raise ValueError(f"its result is incomplete ({error})") from error
    numbers = [result.images_per_second, result.step_seconds, *result.shares.values()]
    if not all(map(math.isfinite, numbers)) or set(result.shares) != set(GROUPS):
        raise ValueError("its result is incomplete (numbers are missing)")
    if result.world_size != point.ranks or len(result.hosts) != point.ranks:
        raise ValueError(
            f"started {counted(point.ranks, 'rank')}, but {result.world_size} reported: make the"
            " launcher start as many ranks as {ranks} says"
        )
    if (result.num_shards, result.microbatch_size) != (point.num_shards, point.microbatch_size):
        raise ValueError(
            f"its result has {result.num_shards} shards of {result.microbatch_size} examples, not"
            f" {point.num_shards} of {point.microbatch_size}"
        )
    return result
