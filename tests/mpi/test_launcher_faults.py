"""Wrong launchers, a missing MPI and bad input under real launchers: one clear line and exit code 2
on any number of ranks.
"""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import pytest

from tests.conftest import (
    Launcher,
    MakeImageSet,
    as_flags,
    clean_environment,
    mpi_launcher,
    openmpi_launcher,
    write_image_set,
)

PROBE = (
    "import sys, distcnn.train as t; sys.exit('mpi4py' in sys.modules or"
    " t.main(['--version-of-nothing']) != 2 or 'mpi4py' in sys.modules)"
)


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "distcnn.train: error:" in line]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_bad_input_is_one_line_from_one_rank(ranks: int, any_mpi: Launcher, tmp_path: Path) -> None:
    start = time.monotonic()
    done = any_mpi.run(ranks, "-m", "distcnn.train", "--data", str(tmp_path / "nothing.h5"))
    assert time.monotonic() - start < 10
    assert done.returncode == 2, done.stderr
    assert len(errors(done.stderr)) == 1, done.stderr
    assert "no such file" in done.stderr
    assert not done.stdout.strip()
    assert not (tmp_path / "runs").exists()


def test_a_label_that_one_rank_alone_sees_ends_all(any_mpi: Launcher, tmp_path: Path) -> None:
    path = write_image_set(tmp_path / "set.h5")
    with h5py.File(path, "r+") as file:
        file["train/labels"][150] = 10
    done = any_mpi.run(4, "-m", "distcnn.train", *as_flags(data=path, output=tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert len(errors(done.stderr)) == 1, done.stderr
    assert "/train/labels[150] is 10, out of range for 10 classes" in done.stderr
    assert "(on rank 2)" in done.stderr
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_shards(any_mpi: Launcher, image_set: MakeImageSet) -> None:
    done = any_mpi.run(3, "-m", "distcnn.train", "--data", str(image_set()), "--num-shards", "2")
    assert done.returncode == 2, done.stderr
    assert len(errors(done.stderr)) == 1
    assert "3 ranks cannot share 2 shards" in done.stderr


def test_a_gradient_out_of_range_stops_all_ranks_at_one_step(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(
        learning_rate="1e20",
        warmup_steps=0,
        model="tutorial",
        microbatch_size=8,
        output=tmp_path / "run",
    )
    done = any_mpi.run(3, "-m", "distcnn.train", "--data", str(image_set()), *flags)
    assert done.returncode == 3, done.stderr
    assert len(errors(done.stderr)) == 1, done.stderr
    assert "step 1, shard 0: the gradient of " in done.stderr


def test_an_exception_on_one_rank_ends_all_with_its_traceback(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(
        "from distcnn import models, nn\n"
        "from distcnn.system import launcher\n"
        "import os\n"
        "class Broken(nn.Identity):\n"
        "    def function(self, x, out):\n"
        "        if launcher.declared_rank(os.environ) == 1:\n"
        "            raise RuntimeError('broken on purpose')\n"
        "        super().function(x, out)\n"
        "def network(input_shape, classes):\n"
        "    return nn.Sequential([nn.Flatten(), Broken(), nn.Dense(classes)])\n"
    )
    start = time.monotonic()
    path = f"{clean_environment()['PYTHONPATH']}:{tmp_path}"
    flags = as_flags(data=image_set(), model="broken:network", output=tmp_path / "run")
    done = any_mpi.run(3, "-m", "distcnn.train", *flags, PYTHONPATH=path)
    assert time.monotonic() - start < 30
    assert done.returncode != 0
    assert "rank 1 of 3 failed" in done.stderr
    assert "RuntimeError: broken on purpose" in done.stderr


def test_without_a_launcher_no_mpi_is_imported(serial: Launcher) -> None:
    assert serial.run(1, "-c", PROBE).returncode == 0


def test_the_mpirun_of_another_mpi_is_refused() -> None:
    here, other = mpi_launcher(), openmpi_launcher()
    for mixed in (
        Launcher("mixed", here.python, other.mpirun),
        Launcher("mixed", other.python, here.mpirun),
    ):
        done = mixed.run(3, "-m", "distcnn.train")
        assert done.returncode == 2, (mixed, done.stderr)
        assert "started 3 processes" in done.stderr
        assert "use the mpirun of that library" in done.stderr
        assert len(errors(done.stderr)) == 1, done.stderr


def test_a_wrong_number_of_ranks_is_refused(mpirun: Launcher, image_set: MakeImageSet) -> None:
    done = mpirun.run(2, "-m", "distcnn.train", "--data", str(image_set()), "--world-size", "3")
    assert done.returncode == 2
    assert "expected 3 ranks" in done.stderr


def test_help_is_printed_once(any_mpi: Launcher) -> None:
    done = any_mpi.run(3, "-m", "distcnn.train", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: python -m distcnn.train") == 1


def test_ranks_that_see_different_image_sets_are_refused(any_mpi: Launcher, tmp_path: Path) -> None:
    for rank, examples in enumerate((50, 51, 50)):
        (tmp_path / str(rank)).mkdir()
        write_image_set(tmp_path / str(rank) / "set.h5", train=examples)
    # Each rank in a folder of its own: so a path looks where hosts share no file system.
    script = (
        f"cd {tmp_path}/${{PMI_RANK:-$OMPI_COMM_WORLD_RANK}} && exec {any_mpi.python} -m"
        " distcnn.train --data set.h5"
    )
    done = Launcher("a shell", "sh", any_mpi.mpirun).run(3, "-c", script)
    assert done.returncode == 2, done.stderr
    assert len(errors(done.stderr)) == 1, done.stderr
    assert "set.h5: rank 1 has a different image set than rank 0" in done.stderr
    assert not list(tmp_path.glob("*/runs"))
