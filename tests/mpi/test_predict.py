"""The output of predict is the same on any number of ranks, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.interop_fixtures import some_images


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
