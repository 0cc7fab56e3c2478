"""A file system that stops responding at any read of the image set, in Python or inside HDF5: the
run ends, and signals end it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERIAL, MakeImageSet, as_flags, slow
from tests.support.running import STAGED, running

READS = [25, *slow(2, 40)]
"""In Python's opening, in HDF5's, and among the examples: a start reads about 80 times.

Not at the first: the kernel lets nobody interrupt the closing of a file on such a file system,
unless that was refused once."""


@contextmanager
def hung_after(reads: int, file: Path, mount: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """``file`` in a file system that hangs after ``reads`` reads, and the process serving it."""
    mount.mkdir()
    command = [
        sys.executable,
        str(ROOT / "tests/support/hung_file_system.py"),
        str(mount),
        str(file),
        str(reads),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout
            said = server.stdout.readline()
            if said != "mounted\n":
                pytest.skip(f"no FUSE here: {said.strip()}")
            yield mount / "set.h5", server
        finally:
            server.kill()
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)


@pytest.mark.parametrize("reads", READS)
def test_a_run_ends_by_itself_and_by_signals(
    reads: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    for number in (None, signal.SIGTERM, signal.SIGINT):
        mount = tmp_path / f"mount-{number}"
        timeout = ["--stall-timeout", "1"] if number is None else []
        with (
            hung_after(reads, image_set(), mount) as (path, server),
            running(
                SERIAL, 1, *STAGED, *as_flags(data=path, output=tmp_path / "run"), *timeout
            ) as run,
        ):
            try:
                if number is not None:
                    run.wait_for(
                        lambda: (beat := run.beat(0)) and "the image set" in beat.text(),
                        "the reading",
                        20,
                    )
                    time.sleep(1)
                    run.process.send_signal(number)
                ended = run.end(12)
            finally:
                server.kill()  # else nothing might end a process that has not ended
        assert ended.code in ((1, 4) if number is None else (-number,)), ended.stderr
        if number is None:
            assert (
                ("reading and hashing" in ended.stderr or "opening" in ended.stderr)
                if ended.code == 4
                else "storage.py" in ended.stderr
            )
