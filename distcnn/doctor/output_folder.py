"""The folder for results, which only rank 0 writes to."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distcnn.doctor.check import Check, Finding, Options, Places
from distcnn.doctor.time_limits import bounded

if TYPE_CHECKING:
    from distcnn.distributed import Communicator

DEFAULT = "runs"
SECONDS = 5.0
SLOW_SECONDS = 1.0
SAMPLE_BYTES, PIECE_BYTES = 16 * 2**20, 2**20
"""About the size of a short run of the default network."""
LITTLE_BYTES = 256 * 2**20
OF_A_RUN = "config.toml"

ANOTHER = "choose a folder with --output that rank 0's host can write (ls -ld, quota, df -h)"


@dataclass
class Output:
    """What rank 0 found in the folder for results; ``seconds`` is the time to write a sample."""

    path: str
    holds_run: bool = False
    seconds: float = 0.0
    free: int = 0
    problem: str = ""


def collect(communicator: Communicator, options: Options) -> Output | None:
    """Write a sample into the folder and remove it, on rank 0."""
    if communicator.rank:
        return None
    found = Output(options.output or DEFAULT)
    try:
        bounded(SECONDS, f"writing to {found.path}", lambda: write_sample(found))
    except TimeoutError as error:
        found.problem = str(error)
    except OSError as error:
        found.problem = f"{error.strerror or error} ({error.filename or found.path})"
    return found


def write_sample(found: Output) -> None:
    """Write and sync a temporary file in the folder, or where the folder would be made."""
    path = Path(found.path)
    found.holds_run = (path / OF_A_RUN).exists()
    folder = next(place for place in (path, *path.parents) if os.path.lexists(place))
    start = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SAMPLE_BYTES // PIECE_BYTES):
            file.write(bytes(PIECE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        room = os.fstatvfs(file.fileno())
    found.seconds = time.perf_counter() - start
    found.free = room.f_bavail * room.f_frsize


def evaluate(places: Places, everyone: Mapping[int, Output | None]) -> Iterator[Finding]:
    """Whether rank 0 can write, how fast, and how much room there is."""
    found = everyone.get(0)
    if found is None:
        return
    path, free = found.path, found.free
    if found.problem:
        yield Finding.bad("output", f"{path} cannot be written: {found.problem}", ANOTHER)
        return
    if found.holds_run:
        remedy = f"choose another folder, or continue the run with --resume {path}"
        yield Finding.warning("output", f"{path} holds a run, which is not overwritten", remedy)
    speed = f"{SAMPLE_BYTES / 2**20:.0f} MiB written in {found.seconds:.2f} s"
    if free < LITTLE_BYTES:
        text = f"{path}: only {free / 2**20:,.0f} MiB free"
        yield Finding.warning("output", text, "free some space, or choose another with --output")
    elif found.seconds > SLOW_SECONDS:
        remedy = "training continues while checkpoints are written, but may wait for the last one"
        yield Finding.warning("output", f"{path} is slow: {speed}", remedy)
    else:
        room = "over 100" if free > 100 * 2**30 else f"{free / 2**30:.1f}"
        yield Finding.good("output", f"{path}: {speed}, {room} GiB free")


CHECK = Check("output", collect, evaluate)
