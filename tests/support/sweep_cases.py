"""Records made by hand, for tests that start nothing."""

from __future__ import annotations

from typing import Any

from distcnn.scaling.points import Measurement, Point
from distcnn.scaling.result import GROUPS, KIND
from distcnn.scaling.sweep_directory import Record

HALF = {"compute": 0.5, "local_sum": 0.1, "communication": 0.2, "waiting": 0.15, "data": 0.05}


def split_of(step_seconds: float, fractions: dict[str, float]) -> dict[str, Any]:
    """As the ranks write it, seconds from fractions."""
    return {
        "step_seconds": step_seconds,
        **{f"{group}_seconds": fractions[group] * step_seconds for group in GROUPS},
    }


def result_of(
    point: Point, speed: float, sha256: str = "a" * 64, split_step: float = 0.0, **more: Any
) -> dict[str, Any]:
    """A result of ``point`` at ``speed`` images a second."""
    step = point.global_batch_size / speed
    split = split_of(split_step or step, HALF)
    return {
        "kind": KIND,
        "world_size": point.ranks,
        "num_shards": point.num_shards,
        "microbatch_size": point.microbatch_size,
        "hosts": ["h1"] * point.ranks,
        "cores_of_hosts": {"h1": 2},
        "train_examples": 60000,
        "reduction": "exact",
        "kept_gradients": True,
        "software": {"numpy": "2"},
        "model": "lenet",
        "data": "mnist",
        "machine": {"cores": 2, "mpi": "MPICH", "processor": "P"},
        "images_per_second": speed,
        "step_seconds": step,
        "params_sha256": sha256,
        "split": {"mean": split, "slowest_rank": 0, "ranks": [split] * point.ranks},
        **more,
    }


def record(
    point: Point, repeat: int = 1, speed: float = 1000.0, reason: str = "", **more: Any
) -> Record:
    """One with a result, or a failed one where a ``reason`` is given."""
    result = None if reason else result_of(point, speed, **more)
    measurement = Measurement(point, repeat)
    return Record(
        measurement,
        result,
        reason,
        f"measurements/{measurement.name}.log",
        ["mpirun"],
        "2026-01-01T00:00:00",
        1.5,
        1 if reason else 0,
    )


def strong(ranks: int, shards: int = 4) -> Point:
    """A point of strong scaling."""
    return Point("strong", ranks, shards, 64)


def weak(ranks: int) -> Point:
    """A point of weak scaling: 4 shards on each rank."""
    return Point("weak", ranks, 4 * ranks, 64)
