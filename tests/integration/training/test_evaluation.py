"""A failed evaluation of a run can be reproduced."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.conftest import SERIAL, MakeImageSet, as_flags, clean_environment, launcher_of
from tests.support.training_fixtures import (
    FRAGILE_MODEL,
    content,
    receipt,
    stepped,
    store_of,
    train,
    with_path,
)

QUICK = ["--epochs", "2", "--microbatch-size", "8"]
DIVERGING = [*QUICK, *as_flags(model="tutorial", learning_rate="1e20", warmup_steps=0, max_steps=1)]


def fail(ranks: int, output: Path, *flags: str, **environment: str) -> tuple[str, list[str]]:
    """The failed run's message about its evaluation, and the command that reproduces it."""
    done = train(launcher_of(ranks), ranks, "--output", str(output), *flags, **environment)
    assert done.returncode == 3, done.stderr
    found = re.search(
        r"^distcnn\.train: error: (evaluation: test examples .*)\ncheckpoint saved"
        r" \(step \d+\); replay it in one process with: (.*)$",
        done.stderr,
        re.MULTILINE,
    )
    assert found, done.stderr
    assert not (output / "result.json").exists()
    return found[1], shlex.split(found[2])


def assert_reproduced(
    what: str, command: list[str], run: Path, cwd: Path, **environment: str
) -> None:
    """The printed command gives the same message and changes nothing."""
    before = content(run)
    done = subprocess.run(
        [sys.executable, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=clean_environment() | environment,
    )
    assert (done.returncode, done.stderr) == (3, f"distcnn.train: error: {what}\n")
    assert content(run) == before


def test_a_diverged_run_names_examples_and_layer_and_is_reproduced(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags, run = ["--data", str(image_set()), *DIVERGING], tmp_path / "run"
    what, command = fail(1, run, *flags)
    assert re.fullmatch(
        r"evaluation: test examples 0 to 7: the output of dense1 is inf at \(0, 0\): the training"
        r" has diverged; lower --learning-rate",
        what,
    )
    assert command == [
        "python",
        "-m",
        "distcnn.train",
        *as_flags(resume=run, debug=True, break_at_step=1),
    ]
    assert {
        name: array.tobytes() for name, array in store_of(run).load(1).folder("weights").items()
    } == stepped(1, *flags)
    assert_reproduced(what, command, run, tmp_path)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_test_that_fails_within_a_run_is_reproduced(
    ranks: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE_MODEL)
    path, run, data = (
        with_path(tmp_path),
        tmp_path / "run",
        Path(shutil.copy(image_set(), tmp_path / "white.h5")),
    )
    with h5py.File(data, "r+") as file:
        file["test/images"][42] = 255
        for name in ("sha256", "blocks_sha256"):  # of the images as they were
            del file.attrs[name]
    what, command = fail(
        ranks,
        run,
        *as_flags(data=data),
        *QUICK,
        *as_flags(model="fragile:network"),
        PYTHONPATH=path,
    )
    assert what.startswith(
        "evaluation: test examples 40 to 47: the output of fragile1 is nan at (0, 2): "
    )
    assert command[-2:] == ["--break-at-step", "4"]
    assert [line["kind"] for line in receipt(run)] == ["start"], "what failed is not in the receipt"
    assert_reproduced(what, command, run, tmp_path, PYTHONPATH=path)
    again = train(SERIAL, 1, "--resume", str(run), PYTHONPATH=path)
    assert again.returncode == 3
    assert f"error: {what}\ncheckpoint saved (step 4); " in again.stderr
