"""Warnings on several ranks are printed once, with rank and host, also before a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Launcher, MakeImageSet, as_flags
from tests.support.training_fixtures import with_path

NOISY = """
import os
import warnings

from distcnn import models, nn

RANK = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
warnings.warn("an old module", FutureWarning)


class Noisy(nn.Identity):
    calls = 0

    def function(self, x, out):
        super().function(x, out)
        Noisy.calls += 1
        if Noisy.calls == 4 and RANK > 0:
            warnings.warn("saturated")
        if Noisy.calls == 5 and RANK == 2 and "FAIL" in os.environ:
            raise KeyError("staged")


def network(input_shape, classes):
    return nn.Sequential([*models.tutorial(input_shape, classes).layers, Noisy()])
"""


@pytest.fixture
def flags(tmp_path: Path, image_set: MakeImageSet) -> list[str]:
    (tmp_path / "noisy.py").write_text(NOISY)
    run = as_flags(data=image_set(), output=tmp_path / "run", model="noisy:network")
    return ["-m", "distcnn.train", *run, *as_flags(microbatch_size=8, epochs=1, log_every=3)]


@pytest.mark.mpi
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_text_of_several_ranks_is_printed_once(
    flags: list[str], quiet: list[str], tmp_path: Path, any_mpi: Launcher
) -> None:
    paths = {"PYTHONPATH": with_path(tmp_path), "PYTHONWARNINGS": "default"}
    done = any_mpi.run(3, *flags, *quiet, **paths)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("warning (rank ")]
    host = os.uname().nodename
    assert [line.rpartition(" (")[0] for line in found] == [
        f"warning (rank 0 on {host}, and 2 other ranks): an old module",
        f"warning (rank 1 on {host}, and 1 other rank): saturated",
    ]
    assert "Warning" not in done.stderr


@pytest.mark.mpi
def test_a_rank_that_fails_prints_its_own(
    flags: list[str], tmp_path: Path, mpirun: Launcher
) -> None:
    paths = {"PYTHONPATH": with_path(tmp_path), "PYTHONWARNINGS": "default"}
    done = mpirun.run(3, *flags, FAIL="1", **paths)
    assert done.returncode != 0
    host = os.uname().nodename
    assert done.stderr.count(f"warning (rank 2 on {host}): saturated (UserWarning") == 1
    assert "KeyError: 'staged'" in done.stderr
