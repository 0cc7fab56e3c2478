"""A validation set on several ranks: the same bits, lines and end as on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, launcher_of, slow
from tests.support.training_fixtures import (
    PATIENT,
    assert_same_end,
    metrics,
    result,
    train,
    train_with_stops,
)

EIGHT = as_flags(model="tutorial", validation=0.1, epochs=2, microbatch_size=8, keep=1)
WINDOWS = ["--data-memory", "3"]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [3, *slow(2)])
def test_all_ranks_stop_after_the_same_epoch(
    ranks: int, patient: Path, noise: Path, stopping: str, mpirun: Launcher, tmp_path: Path
) -> None:
    flags = [*as_flags(data=noise, overlap="on", output=tmp_path / "run"), *PATIENT]
    done = train(mpirun, ranks, *flags, PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped after epoch") == 1
    assert_same_end(tmp_path / "run", patient, begun_on=ranks)
    verify = ["-m", "distcnn.verify", "--trust-model", str(patient)]
    replayed = mpirun.run(ranks, *verify, PYTHONPATH=stopping)
    assert "identical: steps 0 to" in replayed.stdout, replayed.stdout + replayed.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [(1, 3), *slow(((3, 1),), ((2, 4),))])
def test_a_run_that_was_killed_ends_the_same_on_other_ranks(
    ranks: tuple[int, int], patient: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    calls = 15 * result(patient)["epochs"] // ranks[0] - 4  # in the last epoch
    flags = [*as_flags(data=noise, output=tmp_path / "run"), *PATIENT]
    train_with_stops(flags, tmp_path / "run", "SIGKILL", ranks, [calls], stopping)
    assert_same_end(tmp_path / "run", patient, begun_on=ranks[0])


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "more"), [(8, []), *slow((2, []), (3, WINDOWS), (8, [*WINDOWS, "--overlap", "on"]))]
)
def test_bits_and_lines_do_not_depend_on_the_ranks(
    ranks: int, more: list[str], image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [*as_flags(data=image_set(train=1003)), *EIGHT, *more]
    alone = SERIAL.train(1, tmp_path / "alone", *flags)
    found = launcher_of(ranks).train(ranks, tmp_path / "many", *flags)
    assert (alone["validation_examples"], found["world_size"]) == (100, ranks)
    assert_same_end(tmp_path / "many", tmp_path / "alone", begun_on=ranks)
    assert "validation_loss" in metrics(tmp_path / "many")[-1]
