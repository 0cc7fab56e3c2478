"""``Trainer`` on several ranks: any communicator, and arguments that differ between ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Launcher, MakeImageSet

SCRIPT = """
import sys
from mpi4py import MPI
import distcnn as dc
from distcnn import datasets

data, case = sys.argv[1:]
rank = MPI.COMM_WORLD.rank
images = datasets.open(data)
train, (test_images, test_labels) = images.read("train"), images.read("test")
if case == "labels" and rank == 1:
    test_labels = test_labels[:-1]
class Fails(dc.Callback):
    pass
def fail(*_):
    raise KeyError("the disk is full")
if case.startswith("on_"):
    setattr(Fails, case, fail)
if case == "exit":
    Fails.on_step = lambda *_: sys.exit(3)
communicator = {"split": MPI.COMM_WORLD.Split(rank), "none": None}.get(case, MPI.COMM_WORLD)
seed = rank if case == "seed" else 0
trainer = dc.Trainer("mlp", communicator=communicator, num_shards=4, seed=seed)
try:
    arrays = (train, (test_images, test_labels))
    run = trainer.fit(arrays, epochs=1, log_every=4, callbacks=[Fails()] if rank else [])
    text = f"{trainer.world_size} {trainer.is_root} {run.params_sha256}"
except (dc.InputError, dc.TrainingError) as error:
    text = f"{type(error).__name__} {error}"
sys.stdout.write(text + chr(10))
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.mark.mpi
def test_any_communicator_gives_the_same_weights(
    script: str, mpirun: Launcher, image_set: MakeImageSet
) -> None:
    hashes = set()
    for case, worlds in (("none", {"2"}), ("world", {"2"}), ("split", {"1"})):
        done = mpirun.run(2, script, str(image_set()), case)
        assert done.returncode == 0, done.stderr
        words = done.stdout.split()
        assert len(words) == 6
        assert {*words[::3]} == worlds
        hashes |= {*words[2::3]}
    assert len(hashes) == 1


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("case", "text"),
    [("seed", "seed is 0 on rank 0, but 1 on rank 1"), ("labels", "test_labels has shape")],
)
def test_what_is_wrong_on_one_rank_is_an_error_on_all(
    case: str, text: str, script: str, mpirun: Launcher, image_set: MakeImageSet
) -> None:
    done = mpirun.run(2, script, str(image_set()), case)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(text) == 2


@pytest.mark.mpi
@pytest.mark.parametrize("method", ["on_start", "on_step", "on_log", "on_epoch", "on_end"])
def test_a_callback_that_raises_on_one_rank_ends_all(
    method: str, script: str, mpirun: Launcher, image_set: MakeImageSet
) -> None:
    done = mpirun.run(2, script, str(image_set()), method)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TrainingError") == 2
    assert done.stdout.count("KeyError: 'the disk is full') on rank 1") == 2


@pytest.mark.mpi
def test_what_fails_on_one_rank_alone_ends_all(
    script: str, mpirun: Launcher, image_set: MakeImageSet
) -> None:
    done = mpirun.run(2, script, str(image_set()), "exit")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("rank 1 of 2 failed") == 1
