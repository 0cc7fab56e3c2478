"""What the ranks of a point report, and the sweep directory that keeps it, so that a sweep can
continue.

    sweep.json                                      the settings; another sweep is refused
    measurements/strong-2-ranks-repeat-1.json       a record; its output is in the .log
    scaling.json, scaling.png                       the results, when no record is missing
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.config import Config, as_flag
from distcnn.errors import InputError
from distcnn.scaling.interconnect import SumTimes
from distcnn.scaling.options import Settings
from distcnn.scaling.points import Job, Point
from distcnn.system.files import explaining, read_bytes, write_atomically
from distcnn.system.json_values import from_json
from distcnn.system.wording import counted
from distcnn.training.run_directory import make_unused
from distcnn.training.run_files import locked

KIND = "distcnn.scaling.worker 3"  # of this version's results
GROUPS = ("compute", "local_sum", "communication", "waiting", "data")
"""Parts of a step's time, which add up to it: layers, loss and update; adding gradients on this
rank; the sum over ranks; waiting for the slowest rank; reading examples.
"""
SETTINGS, MEASUREMENTS = "sweep.json", "measurements"


@dataclass(frozen=True)
class ShardTimes:
    """Seconds of one shard on the rank that waits least, at the speed without instruments."""

    data: float
    forward: float  # with the loss, the waiting, and everything that is in no other part
    backward: list[float]  # by bucket, in the order in which buckets are reduced
    add: float  # its gradient to the rank's sum
    shared_memory: float | None  # its part of the sum; None if gradients are summed otherwise
    update: float  # of a whole step

    @property
    def compute(self) -> float:
        return self.forward + sum(self.backward)


@dataclass(frozen=True)
class Result:
    """One measurement of a point."""

    model: str
    data: str
    world_size: int
    num_shards: int
    microbatch_size: int
    reduction: str
    overlap: str
    hosts: list[str]  # of each rank
    crowd: str | None  # as in "4 ranks on 2 cores of host a"
    processor: str
    mpi: str
    software: dict[str, str]  # the fingerprint of everything that may change bits
    images_per_second: float  # of all ranks, without instruments
    step_seconds: float
    shares: dict[str, float]  # of a step with instruments by group, mean over ranks
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
    """Build the result of ``point`` from its JSON table; ``ValueError`` says why it is none."""
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


@dataclass(frozen=True)
class Record:
    """How a measurement ended: a result, or the ``reason`` for its failure."""

    job: Job
    result: Result | None
    reason: str
    seconds: float  # with the start of the ranks and reading data

    @property
    def log(self) -> str:
        """The file with its output, relative to the sweep directory."""
        return f"{MEASUREMENTS}/{self.job.name}.log"

    def to_json(self) -> dict[str, Any]:
        """One table, flat except for the result."""
        table = dataclasses.asdict(self)
        job = table.pop("job")
        return {**job.pop("point"), **job, "log": self.log, **table}


class Sweep:
    """An open sweep directory at ``path``, of a sweep with ``settings``."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.measurements = path / MEASUREMENTS
        if self.measurements.is_symlink():
            raise InputError(f"{self.measurements} is a symbolic link: replace it with a folder")

    def add(self, record: Record) -> None:
        """Write ``record``, replacing an earlier one of the same measurement."""
        self.write(f"{MEASUREMENTS}/{record.job.name}.json", record.to_json())

    def find(self, job: Job) -> Record | None:
        """Read the record of ``job``; None if there is none, or it is damaged."""
        try:
            table = json.loads(read_bytes(self.measurements / f"{job.name}.json", follow=True))
            result = table["result"] and read_result(table["result"], job.point)
            return Record(job, result, table["reason"], table["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, content: dict[str, Any] | bytes) -> Path:
        """Write a file of the sweep atomically, a table as JSON; return its path."""
        file, again = self.path / name, f"the same command with --output {self.path} to continue"
        if not isinstance(content, bytes):
            content = (json.dumps(content, indent=1) + "\n").encode()
        with explaining(f"{file} cannot be written", f"free some space, then run {again}"):
            write_atomically(file, content)
        return file


@contextmanager
def opened(output: str, settings: Settings) -> Iterator[Sweep]:
    """Open the sweep directory ``output``, a new one if empty, and lock it; ``InputError`` if that
    cannot be done, or it belongs to another sweep.
    """
    with explaining(
        f"--output: {output or 'runs'} cannot be made", "name a folder that you may write to"
    ):
        started = time.strftime("scaling-%Y%m%d-%H%M%S")
        path = Path(output) if output else make_unused(Path("runs") / started)
        (path / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
    with locked(path):
        if (path / SETTINGS).exists():
            require_same(read_settings(path), settings, path)
        sweep = Sweep(path, settings)
        sweep.write(SETTINGS, dataclasses.asdict(settings))
        yield sweep


def read_settings(path: Path) -> Settings:
    """Read the settings of the sweep in ``path``; ``InputError`` if they are damaged."""
    try:
        table = json.loads(read_bytes(path / SETTINGS, follow=True))
        return Settings(**{**table, "ranks": tuple(table["ranks"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / SETTINGS} is damaged or of an earlier version ({error}): name another"
            " --output for a new sweep"
        ) from error


def require_same(before: Settings, now: Settings, path: Path) -> None:
    """Raise ``InputError`` naming a flag that differs from those the sweep was started with."""
    tables = []
    for settings in (before, now):
        flags = settings.flags_of(settings.points[0])
        of_sweep = {**dataclasses.asdict(settings), "flags": None}
        tables.append({**of_sweep, **flags, **vars(Config(**flags))})
    was, given = tables
    for name in was:
        if was[name] != given[name]:
            raise InputError(
                f"{path} holds a sweep with {as_flag(name)} {was[name]}, not {given[name]}: give"
                " the same flags to continue it, or name another --output"
            )
