"""Files that never answer, as an image set or as a part of one: refused, or waited for without the
interpreter's lock.
"""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import SERIAL, as_flags, slow
from tests.support.image_sets import write_as_a_user
from tests.support.parts_of_sets import Build, itself, linked, linked_group, linked_twice, virtual
from tests.support.running import running


@contextmanager
def never_opens(path: Path) -> Iterator[None]:
    """While it is entered, opening ``path`` hangs, as on a file system that does not answer: this
    process holds a lease on it.
    """
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # that somebody waits
    with path.open("r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"no leases here: {error}")
        yield
    signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize("build", [itself, *slow(linked, linked_group, linked_twice, virtual)])
def test_a_part_that_never_opens_is_a_stall_and_signals_end_the_run(
    tmp_path: Path, build: Build
) -> None:
    path = build(tmp_path, part := write_as_a_user(tmp_path / "part.h5"))
    flags = ["-m", "distcnn.train", *as_flags(model="mlp", data=path, output=tmp_path / "run")]
    with (
        never_opens(part),
        running(SERIAL, 1, *flags, "--stall-timeout", "1") as stalled,
        running(SERIAL, 1, *flags) as signalled,
    ):
        ended = stalled.end(20)
        signalled.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert signalled.end(5).code == -signal.SIGTERM
        assert time.monotonic() - start < 3
    assert ended.code == 4
    assert len(ended.lines("opening the image set")) == 1
    assert not (tmp_path / "run").exists()
