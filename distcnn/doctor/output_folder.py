"""The folder for results, where rank 0 writes, and each rank's temporary folder: by writing
there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from distcnn.doctor.check import Everyone, Facts, Section, bounded, tried
from distcnn.doctor.file_systems import file_system, nearest_folder
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, gathered
from distcnn.doctor.options import Options

DEFAULT = "runs"
SECONDS = 5.0
SLOW_SECONDS = 1.0
SAMPLE_BYTES, PIECE_BYTES = 16 * 2**20, 2**20
"""What a short run of the default network leaves: weights, metrics and a few checkpoints of 3.5 MB.
"""
LITTLE_BYTES = 256 * 2**20
CLOCK_SECONDS = 10.0
OF_A_RUN = "config.toml"

ANOTHER = (
    "name a folder with --output that rank 0's host can write (its permissions, quota and room: ls"
    " -ld, quota, df -h)"
)


def look(communicator: Any, options: Options) -> Facts:
    """Root writes; all look for what it wrote; root removes it. Every rank tries its temporary
    folder.

    Nothing may be raised here before the last collective call.
    """
    path = Path(options.output or DEFAULT)
    facts: Facts = {"temporary": tried(_temporary_folder)}
    left = ExitStack()
    written: Facts = {}
    if communicator.rank == 0:
        try:
            bounded(SECONDS, f"writing to {path}", lambda: _write(path, written, left))
        except TimeoutError as error:
            written["problem"] = f"{error}: the file system hangs, or is very slow"
        except OSError as error:
            written["problem"] = f"{error.strerror or error} ({error.filename or path})"
        except Exception as error:
            written["problem"] = f"{type(error).__name__}: {error}"
        facts["output"] = {"path": str(path), **written}
    name = communicator.broadcast(written.get("file"))
    facts["sees"] = name is not None and os.path.exists(name)  # noqa: PTH110
    communicator.barrier()
    with suppress(OSError, TimeoutError):
        bounded(SECONDS, "tidying up", left.close)
    return facts


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Root's folder, who sees it, temporary folders."""
    output = everyone[0]["output"] if 0 in everyone else None
    found = list(_output(places, output, everyone)) if output else []
    return [
        *found,
        *gathered(
            places, {rank: _temporary(facts["temporary"]) for rank, facts in everyone.items()}
        ),
    ]


def _write(path: Path, seen: Facts, left: ExitStack) -> None:
    """Make the folder, write a file there, sync, rename. ``left`` removes all that was made."""
    there = nearest_folder(path)
    seen["kind"] = file_system(there)
    seen["run"] = (path / OF_A_RUN).exists()
    for folder in reversed([each for each in (path, *path.parents) if not os.path.lexists(each)]):
        folder.mkdir()
        left.callback(_without_error, folder.rmdir)
    name = path / f".doctor-{secrets.token_hex(8)}"
    left.callback(_without_error, lambda: name.unlink(missing_ok=True))
    start, began = time.perf_counter(), time.time()
    with name.open("xb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            seen["no_locks"] = error.strerror
        for _ in range(SAMPLE_BYTES // PIECE_BYTES):
            file.write(bytes(PIECE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    renamed = name.with_suffix(".renamed")
    name.replace(renamed)
    left.callback(_without_error, lambda: renamed.unlink(missing_ok=True))
    room = os.statvfs(path)
    seen |= {
        "seconds": time.perf_counter() - start,
        "clock": renamed.stat().st_mtime - began,
        "free": room.f_bavail * room.f_frsize,
        "file": str(renamed.absolute()),
    }


def _without_error(work: Any) -> None:
    with suppress(OSError):
        work()


def _output(places: Places, output: Facts, everyone: Everyone) -> Iterator[Finding]:
    path, kind = output["path"], output.get("kind") or "unknown file system"
    if "problem" in output:
        yield Finding(
            "output", BAD, f"{path} ({kind}) cannot be written: {output['problem']}", ANOTHER
        )
        return
    if output["run"]:
        text = f"{path} holds a run: a new one will not be written there"
        yield Finding(
            "output", WARNING, text, f"name another folder, or go on with it: --resume {path}"
        )
    speed = f"{SAMPLE_BYTES / 2**20:.0f} MiB written, synced, renamed in {output['seconds']:.2f} s"
    if output["free"] < LITTLE_BYTES:
        text = f"{path} ({kind}): only {output['free'] / 2**20:,.0f} MiB are free"
        yield Finding("output", WARNING, text, "make room, or name another folder with --output")
    elif output["seconds"] > SLOW_SECONDS:
        text = f"{path} ({kind}) is slow: {speed}"
        yield Finding(
            "output",
            WARNING,
            text,
            "checkpoints are written beside the training; a slow disk delays the end of a run",
        )
    else:
        free = output["free"] / 2**30
        room = f"{'over 100' if free > 100 else f'{free:.1f}'} GiB free"
        yield Finding(
            "output", GOOD, f"{path} ({kind}): {speed}, {room}{_who_sees(places, everyone)}"
        )
    if "no_locks" in output:
        text = (
            f"{path} ({kind}) has no locks ({output['no_locks']}): two runs in one folder would not"
            " notice each other"
        )
        yield Finding("output", WARNING, text, "give each run a folder of its own")
    if abs(output["clock"]) > CLOCK_SECONDS:
        text = f"a file written to {path} is dated {output['clock']:+.0f} s from this host's clock"
        yield Finding(
            "output",
            WARNING,
            text,
            "the clocks of this host and of the file server differ: ask the site to set them",
        )


def _who_sees(places: Places, everyone: Everyone) -> str:
    """Only root writes, so it is no fault when other hosts do not see it."""
    hosts = places.ranks_of_host
    if len(hosts) == 1:
        return ""
    blind = [
        host
        for host, ranks in hosts.items()
        if not any(everyone[rank]["sees"] for rank in ranks if rank in everyone)
    ]
    return (
        f"; not seen from {len(blind)} of {len(hosts)} hosts, which is no fault: only rank 0 writes"
        if blind
        else ", seen from all hosts"
    )


def _temporary_folder() -> Facts:
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
    wanted = next(
        (os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), "/tmp"
    )
    return {
        "folder": folder,
        "unused": wanted if Path(wanted).resolve() != Path(folder).resolve() else "",
    }


def _temporary(temporary: Facts) -> list[Finding]:
    remedy = (
        "set TMPDIR to a folder that every host has, and that can be written: MPI keeps files of"
        " its session there"
    )
    if "problem" in temporary:
        return [
            Finding(
                "temporary",
                BAD,
                f"no temporary folder can be written: {temporary['problem']}",
                remedy,
            )
        ]
    if temporary["unused"]:
        text = (
            f"{temporary['unused']} cannot be written, as a temporary folder ({temporary['folder']}"
            " can)"
        )
        return [Finding("temporary", WARNING, text, remedy)]
    return [Finding("temporary", GOOD, f"{temporary['folder']} can be written")]


SECTION = Section("output", look, judge)
