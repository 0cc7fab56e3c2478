"""The folder for results, where rank 0 writes, and each rank's folder for temporary files."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
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
"""About what a short run of the default network leaves."""
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


@dataclass(frozen=True)
class Folders:
    """The folder for results, on rank 0, and why no temporary file can be written, if so."""

    output: Output | None
    temporary: str
    temporary_problem: str


def collect(communicator: Communicator, options: Options) -> Folders:
    """Write a sample into the folder for results and remove it; write a temporary file."""
    output = None
    if communicator.rank == 0:
        output = Output(options.output or DEFAULT)
        try:
            bounded(SECONDS, f"writing to {output.path}", lambda: write_sample(output))
        except TimeoutError as error:
            output.problem = str(error)
        except OSError as error:
            output.problem = f"{error.strerror or error} ({error.filename or output.path})"
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(4096))
        return Folders(output, tempfile.gettempdir(), "")
    except OSError as error:
        return Folders(output, "", error.strerror or str(error))


def evaluate(places: Places, everyone: Mapping[int, Folders]) -> Iterator[Finding]:
    """Rank 0's folder for results, then temporary folders."""
    output = everyone[0].output if 0 in everyone else None
    if output:
        yield from _output(output)
    yield from places.gathered({rank: [_temporary(facts)] for rank, facts in everyone.items()})


def write_sample(found: Output) -> None:
    """Make the folder, write, sync and rename a file there, and remove all that was made."""
    path = Path(found.path)
    found.holds_run = (path / OF_A_RUN).exists()
    name = path / f".doctor-{secrets.token_hex(8)}"
    with ExitStack() as made:
        for folder in reversed([p for p in (path, *path.parents) if not os.path.lexists(p)]):
            folder.mkdir()
            made.callback(_quietly, folder.rmdir)
        renamed = name.with_suffix(".renamed")
        for file_name in (name, renamed):
            made.callback(_quietly, file_name.unlink)
        start = time.perf_counter()
        with name.open("xb") as file:
            for _ in range(SAMPLE_BYTES // PIECE_BYTES):
                file.write(bytes(PIECE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        name.replace(renamed)
        found.seconds = time.perf_counter() - start
        room = os.statvfs(path)
        found.free = room.f_bavail * room.f_frsize


def _quietly(remove: Callable[[], None]) -> None:
    with suppress(OSError):
        remove()


def _output(found: Output) -> Iterator[Finding]:
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


def _temporary(facts: Folders) -> Finding:
    if facts.temporary_problem:
        text = f"no temporary file can be written: {facts.temporary_problem}"
        remedy = "set TMPDIR to a folder that exists on every host: MPI keeps session files there"
        return Finding.bad("temporary", text, remedy)
    return Finding.good("temporary", f"{facts.temporary} can be written")


CHECK = Check("output", collect, evaluate)
