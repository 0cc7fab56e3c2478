"""The output of predict is the same on any number of ranks, byte for byte."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.interop_fixtures import some_images
from tests.support.running import RANK_VARIABLES, running

TIMEOUT = 2
WATCHED = f"""
import functools, os, signal, sys
import distcnn.predict.__main__ as command
from distcnn.spans import PROGRESS, listening

class Stop:
    def begin(self, span):
        if "1" in map(os.environ.get, {RANK_VARIABLES}):
            os.kill(os.getpid(), signal.SIGSTOP)
    def end(self, span):
        pass

command.Watchdog = functools.partial(command.Watchdog, timeout_seconds={TIMEOUT})
with listening(Stop(), {{PROGRESS}}):
    sys.exit(command.main())
"""


@pytest.mark.mpi
def test_the_output_does_not_depend_on_the_ranks(
    short_run: Path, image_set: MakeImageSet, mpirun: Launcher, tmp_path: Path
) -> None:
    for index, image in enumerate(some_images(21)):
        Image.fromarray(image).resize((28 + index, 30)).save(tmp_path / f"{index:02}.png")
    (tmp_path / "05b.png").write_text("no image")
    np.savez(tmp_path / "x.npz", images=some_images(5))
    command = ["-m", "distcnn.predict", short_run, tmp_path, tmp_path / "x.npz", image_set()]
    alone = SERIAL.run(1, *map(str, command), "--json")
    assert (alone.returncode, alone.stderr.count("05b.png")) == (2, 1), alone.stderr
    assert alone.stdout.count('"file"') == 21 + 5 + 77 + 1
    for ranks in (1, 2, 3):
        found = mpirun.run(ranks, *map(str, command), "--json")
        assert (found.returncode, found.stdout) == (2, alone.stdout)
        assert found.stderr == alone.stderr


@pytest.mark.mpi
def test_bad_input_ends_all_ranks_with_one_line(mpirun: Launcher, tmp_path: Path) -> None:
    done = mpirun.run(2, "-m", "distcnn.predict", str(tmp_path / "nothing"), "x.png")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "no such run" in done.stderr


@pytest.mark.mpi
def test_a_stopped_rank_is_named_and_all_end(
    short_run: Path, mpirun: Launcher, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", some_images(40))
    with running(mpirun, 2, "-c", WATCHED, str(short_run), str(tmp_path / "x.npy")) as run:
        ended = run.end(30)
    assert ended.code == 4, ended.stderr
    assert len(ended.lines("late: rank 1 ")) == 1


def test_a_pager_may_be_left_open(short_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.tile(some_images(100), (20, 1, 1)))
    command = ["-c", WATCHED, str(short_run), str(tmp_path / "x.npy")]
    with running(SERIAL, 1, *command, stdout=subprocess.PIPE) as run:
        assert run.process.stdout is not None
        first = run.process.stdout.readline()  # and no more: the pipe is full soon
        time.sleep(2 * TIMEOUT + 2)
        assert (run.process.poll(), run.stderr) == (None, "")
        with run.process.stdout as output:
            lines = [first, *output]
        ended = run.end(30)
    assert (ended.code, len(lines)) == (0, 2001), ended.stderr
