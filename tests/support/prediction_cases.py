"""A calibration by hand, and a sweep's records of a machine that is known exactly."""

from __future__ import annotations

from typing import Any

from distcnn.distributed.allreduce_benchmark import BESIDE, SIZES, WAITING
from distcnn.scaling.points import Point
from distcnn.scaling.prediction.calibration import Calibration, Shard
from distcnn.scaling.prediction.interconnect import Line, Network
from distcnn.scaling.sweep_directory import Record
from tests.support.sweep_cases import record

SHARD = Shard(
    data=0.001,
    forward=0.010,
    backward=(0.004, 0.006),
    add_first=0.002,
    add_other=0.001,
    kept=0.0005,
)
SHARED = Line(1e-5, 1e-10)
LAYERS = [
    ("conv1", 0),
    ("relu1", 40_000),
    ("dense1", 40_000),
    ("relu2", 90_000),
    ("dense2", 90_000),
]
PARAMETERS = 100_000
"""Two buckets: dense1 and dense2, 60,000 elements; conv1, 40,000."""


def network_of(line: Line, name: str = "ours") -> Network:
    """Alike in both ways."""
    return Network(name, {WAITING: line, BESIDE: line})


def calibration(**changes: Any) -> Calibration:
    """Computing takes as long with one rank on a host as with two."""
    values: dict[str, Any] = {
        "model": "lenet",
        "reduction": "exact",
        "overlap": "auto",
        "microbatch_size": 64,
        "train_examples": 60_000,
        "bucket_bytes": (480_000, 320_000),
        "shards": {1: SHARD, 2: SHARD},
        "update": 0.003,
        "on_host": {2: network_of(SHARED)},
        "between": None,
        "add_seconds_per_byte": 0.0,
        "spread": 0.1,
        "ranks": (1, 2),
    }
    return Calibration(**{**values, **changes})


def measured(
    point: Point, hosts: int = 1, shard: Shard = SHARD, stopwatches: float = 1.1, **more: Any
) -> Record:
    """The record of ``point`` on this machine: its ranks as evenly on ``hosts`` as may be,
    gradients kept on one host.
    """
    most = point.most_shards
    kept = hosts == 1 and most <= 4
    adding = most * (shard.kept or 0.0) if kept else shard.add_first + (most - 1) * shard.add_other
    parts = {
        "data": most * shard.data,
        "conv1 forward": most * 0.008,
        "dense1 forward": most * 0.001,
        "loss": most * 0.0005,
        "rest": most * 0.0005,
        "dense2 backward": most * 0.001,
        "relu2 backward": most * 0.001,
        "dense1 backward": most * 0.002,
        "relu1 backward": most * 0.002,
        "conv1 backward": most * 0.004,
        "local sum": adding,
        "update": 0.003,
    }
    step = sum(parts.values())
    split = {
        "step_seconds": step * stopwatches,
        "parts": {name: seconds * stopwatches for name, seconds in parts.items()},
        "waiting_seconds": 0.0,
        **{f"{group}_seconds": 0.0 for group in ("compute", "local_sum", "communication", "data")},
    }
    values: dict[str, Any] = {
        "hosts": [f"h{1 + rank * hosts // point.ranks}" for rank in range(point.ranks)],
        "kept_gradients": kept,
        "shards_of_ranks": [point.num_shards // point.ranks] * (point.ranks - 1) + [most],
        "flags": {"overlap": "auto"},
        "adding": {"first": shard.add_first, "others": shard.add_other},
        "network": {
            "world_size": point.ranks,
            "add_seconds_per_byte": 0.0,
            "rows": (
                {
                    way: [[size, SHARED.seconds(point.ranks, size)] for size in SIZES]
                    for way in (WAITING, BESIDE)
                }
                if point.ranks > 1
                else {}
            ),
        },
        "step_seconds_each": [step] * 8,
        "split": {"mean": split, "slowest_rank": 0, "ranks": [split] * point.ranks},
    }
    return record(point, speed=point.global_batch_size / step, **{**values, **more})
