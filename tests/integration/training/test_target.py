"""A run that stops at a test accuracy: on any ranks, stopped, killed and resumed, at the same step
with the same bits; replayed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distcnn.checkpoints import CheckpointStore
from distcnn.config import Config
from distcnn.errors import InputError
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, mpi_launcher, slow
from tests.support.training_fixtures import assert_same_end, content, receipt, resume, train

# With the default image set 4 steps an epoch, and the accuracies 0.32, 0.75, 0.97, 1. On one rank 8
# calls of forward a step, 10 a test.
SLOW = as_flags(
    model="stopping:network",
    microbatch_size=8,
    learning_rate=0.0015,
    schedule="constant",
    warmup_steps=0,
)
SLOW += ["--epochs", "6", "--cycle-epochs", "0", "--check-every", "3"]
EXIT_INPUT, EXIT_STOPPED = 2, 85


def full_result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


@pytest.fixture(scope="module")
def flags(image_set: MakeImageSet) -> list[str]:
    return ["--data", str(image_set()), *SLOW]


@pytest.fixture(scope="module")
def reached(flags: list[str], stopping: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank that reached its target in its third test, after step 12 of 24.

    Not to be changed.
    """
    path = tmp_path_factory.mktemp("reached") / "run"
    done = train(
        SERIAL, 1, *flags, *as_flags(target_accuracy=0.9, output=path), PYTHONPATH=stopping
    )
    assert (done.returncode, done.stderr) == (0, "")
    seconds = full_result(path)["seconds_to_target"]
    assert (
        f"test accuracy 0.9740 reached --target-accuracy 0.9 after 12 steps, {seconds:.1f} s from"
        " the start of the first" in done.stdout
    )
    assert (
        "target   test accuracy 0.9; the defaults with it: --epochs 6 --cycle-epochs 1 "
        in done.stdout
    )
    return path


@pytest.fixture
def copy(reached: Path, tmp_path: Path) -> Path:
    """A copy of ``reached`` that a test may change."""
    return Path(shutil.copytree(reached, tmp_path / "copy"))


def verify(run: Path, launcher: Launcher = SERIAL, ranks: int = 1, **environment: str) -> str:
    done = launcher.run(ranks, "-m", "distcnn.verify", str(run), "--trust-model", **environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_ends_as_a_run_that_was_to_end_there(
    reached: Path, flags: list[str], stopping: str, tmp_path: Path
) -> None:
    SERIAL.train(1, tmp_path / "cut", *flags, "--max-steps", "12", PYTHONPATH=stopping)
    found, cut = full_result(reached), full_result(tmp_path / "cut")
    assert (found["target_accuracy"], found["target_reached"], found["steps"], found["epochs"]) == (
        0.9,
        True,
        12,
        3,
    )
    assert found["train_seconds"] < found["seconds_to_target"] < found["train_seconds"] + 60
    assert "target_reached" not in cut
    assert (found["params_sha256"], found["best_step"], found["test_correct"]) == (
        cut["params_sha256"],
        12,
        cut["test_correct"],
    )
    assert (
        receipt(reached)[1:] == receipt(tmp_path / "cut")[1:]
    )  # the ledger is closed, the last line is the end's
    assert CheckpointStore(reached / "checkpoints").steps()[-1] == 12
    assert "identical: steps 0 to 12 (" in verify(reached, PYTHONPATH=stopping)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, *slow(3)])
def test_all_ranks_stop_at_the_same_step(
    ranks: int, reached: Path, flags: list[str], stopping: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    mpi_launcher().train(ranks, run, *flags, "--target-accuracy", "0.9", PYTHONPATH=stopping)
    assert_same_end(run, reached, begun_on=ranks)
    assert "identical: steps 0 to 12 (" in verify(run, PYTHONPATH=stopping)
    if ranks == 2:
        assert "identical: steps 0 to 12 (" in verify(
            reached, mpi_launcher(), 2, PYTHONPATH=stopping
        )


@pytest.mark.slow
def test_a_target_that_is_not_reached_is_said_to_be(
    flags: list[str], stopping: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = train(
        SERIAL, 1, *flags, *as_flags(epochs=2, target_accuracy=0.9, output=run), PYTHONPATH=stopping
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "\n--target-accuracy 0.9 was not reached in 8 steps: the best test accuracy was 0.7532\n"
        in done.stdout
    )
    found = full_result(run)
    assert (found["steps"], found["target_reached"], found["seconds_to_target"]) == (8, False, None)
    assert "identical: steps 0 to 8 (" in verify(run, PYTHONPATH=stopping)
    said = train(SERIAL, 1, "--resume", str(run), "--epochs", "6", PYTHONPATH=stopping).stdout
    assert "test accuracy 0.9740 reached --target-accuracy 0.9 after 12 steps" in said


def test_it_stops_at_tests_only(flags: list[str], stopping: str, tmp_path: Path) -> None:
    found = SERIAL.train(
        1,
        tmp_path / "run",
        *flags,
        *as_flags(eval_every=2, target_accuracy=0.7),
        PYTHONPATH=stopping,
    )
    assert (found["steps"], found["target_reached"]) == (8, True)


# In step 12, whose test is still to come; in step 6.
@pytest.mark.parametrize("call", [11 * 8 + 20 + 4, *slow(5 * 8 + 10 + 4)])
def test_a_stopped_run_reaches_the_target_at_the_same_step(
    call: int, flags: list[str], reached: Path, stopping: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(call)}
    done = train(
        SERIAL, 1, *flags, *as_flags(target_accuracy=0.9, output=run), PYTHONPATH=stopping, **stop
    )
    assert done.returncode == EXIT_STOPPED, done.stderr
    done = train(SERIAL, 1, "--resume", str(run), PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_end(run, reached)
    assert (
        full_result(run)["seconds_to_target"] > full_result(run)["train_seconds"]
    )  # of both parts
    assert "identical: steps 0 to 12 (" in verify(run, PYTHONPATH=stopping)


def test_a_run_killed_before_its_result_was_written_takes_no_step_more(
    copy: Path, reached: Path, stopping: str
) -> None:
    for left in ("result.json", "weights.h5"):
        (copy / left).unlink()
    done = train(SERIAL, 1, "--resume", str(copy), PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_end(copy, reached)
    lost = full_result(reached)["seconds_to_target"] - full_result(copy)["seconds_to_target"]
    assert abs(lost) < 0.1  # the time to the target is that of the test, not of the resume


def test_a_run_that_reached_its_target_is_finished(reached: Path) -> None:
    before = content(reached)
    for flags in ([], ["--target-accuracy", "0.95"], ["--epochs", "9"]):
        said = resume(reached, *flags)
        assert f"{reached} is finished: test accuracy 0.9740 after 12 steps" in said
        assert "the run is complete; to train longer" in said
        assert "--target-accuracy" in said.splitlines()[-1]
    assert content(reached) == before


def test_a_higher_target_continues_it(
    copy: Path, flags: list[str], stopping: str, tmp_path: Path
) -> None:
    SERIAL.train(1, tmp_path / "higher", *flags, "--target-accuracy", "1", PYTHONPATH=stopping)
    done = train(SERIAL, 1, "--resume", str(copy), "--target-accuracy", "1", PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert "test accuracy 1.0000 reached --target-accuracy 1 after 16 steps" in done.stdout
    assert_same_end(copy, tmp_path / "higher")
    assert (copy / "result-until-step-12.json").exists()
    done = train(SERIAL, 1, "--resume", str(copy), "--target-accuracy", "0", PYTHONPATH=stopping)
    assert (done.returncode, full_result(copy)["steps"]) == (0, 24)
    assert "identical: steps 0 to 24 (" in verify(copy, PYTHONPATH=stopping)


def test_no_step_is_left_to_break_in_after_the_target(reached: Path, stopping: str) -> None:
    done = train(SERIAL, 1, "--resume", str(reached), "--break-at-step", "15", PYTHONPATH=stopping)
    assert "replayed to the run's end, step 12: no step is left to stop in" in done.stdout


def test_only_a_fraction_is_accepted(tmp_path: Path) -> None:
    for value in (-0.1, 1.5, float("nan"), 99.0):
        message = f"--target-accuracy is {value}: it must be a fraction from 0 to 1"
        with pytest.raises(InputError, match=message):
            Config(target_accuracy=value)
    done = train(SERIAL, 1, "--target-accuracy", "99", "--output", str(tmp_path / "run"))
    assert (done.returncode, done.stderr) == (EXIT_INPUT, f"distcnn.train: error: {message}\n")
    assert not (tmp_path / "run").exists()
