"""Results and records of a machine that is known exactly, for tests that start no process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distcnn.scaling.interconnect import BESIDE, WAITING, Interconnect, Line, SumTimes
from distcnn.scaling.interconnect_test import SIZES
from distcnn.scaling.points import Job, Point
from distcnn.scaling.prediction import Calibration
from distcnn.scaling.records import Record, Result, ShardTimes

SHARES = {"compute": 0.5, "local_sum": 0.1, "communication": 0.2, "waiting": 0.15, "data": 0.05}
SHARD = ShardTimes(
    data=0.001,
    forward=0.010,
    backward=[0.004, 0.006],
    add=0.001,
    shared_memory=0.0005,
    update=0.003,
)
BUCKET_BYTES = [480_000, 320_000]
ON_HOST = Line(1e-5, 1e-10)


def strong(ranks: int, shards: int = 4) -> Point:
    """A point of strong scaling."""
    return Point("strong", ranks, shards, 64)


def weak(ranks: int) -> Point:
    """A point of weak scaling: 4 shards on each rank."""
    return Point("weak", ranks, 4 * ranks, 64)


def result_of(point: Point, speed: float = 0.0, hosts: int = 1, **changes: Any) -> Result:
    """The result of ``point`` on this machine, or at ``speed`` images per second.

    Ranks are spread over ``hosts`` as evenly as possible; gradients are summed in shared memory on
    one host.
    """
    most = point.most_shards
    shared_memory = SHARD.shared_memory if hosts == 1 and most <= 4 else None
    adding = most * SHARD.add
    if shared_memory is not None:
        adding = most * shared_memory
    step = most * (SHARD.data + SHARD.compute) + adding + SHARD.update
    seconds = point.global_batch_size / speed if speed else step
    rows = [[nbytes, ON_HOST.seconds(point.ranks, nbytes)] for nbytes in SIZES]
    values: dict[str, Any] = {
        "model": "lenet",
        "data": "mnist",
        "world_size": point.ranks,
        "num_shards": point.num_shards,
        "microbatch_size": point.microbatch_size,
        "reduction": "exact",
        "overlap": "auto",
        "hosts": [f"h{1 + rank * hosts // point.ranks}" for rank in range(point.ranks)],
        "crowd": None,
        "processor": "P",
        "mpi": "MPICH",
        "software": {"numpy": "2"},
        "images_per_second": point.global_batch_size / seconds,
        "step_seconds": seconds,
        "shares": SHARES,
        "shard": replace(SHARD, shared_memory=shared_memory),
        "bucket_bytes": BUCKET_BYTES,
        "sum_times": SumTimes(
            point.ranks,
            ["h1"] * point.ranks,
            "MPICH",
            {WAITING: rows, BESIDE: rows} if point.ranks > 1 else {},
        ),
        "params_sha256": "a" * 64,
    }
    return Result(**{**values, **changes})


def record(
    point: Point, repeat: int = 1, speed: float = 1000.0, reason: str = "", **changes: Any
) -> Record:
    """A record with a result, or a failed one if a ``reason`` is given."""
    result = None if reason else result_of(point, speed, **changes)
    return Record(Job(point, repeat), result, reason, 1.5)


def interconnect(line: Line, name: str = "ours") -> Interconnect:
    """The same line in both ways of summing."""
    return Interconnect(name, {WAITING: line, BESIDE: line})


def calibration(**changes: Any) -> Calibration:
    """Of the machine; computing takes as long with one rank on a host as with two."""
    values: dict[str, Any] = {
        "model": "lenet",
        "reduction": "exact",
        "overlap": "auto",
        "bucket_bytes": BUCKET_BYTES,
        "shards": {1: SHARD, 2: SHARD},
        "on_host": {2: interconnect(ON_HOST)},
        "between": None,
        "ranks": [1, 2],
    }
    return Calibration(**{**values, **changes})
