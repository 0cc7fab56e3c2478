"""NaN and infinity in real runs: the first one is named, the state before it is saved, and one
command reproduces it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcnn.checkpoints import CheckpointStore
from distcnn.training.run_directory import CHECKPOINTS
from tests.conftest import SERIAL, MakeImageSet, as_flags, clean_environment, launcher_of, slow
from tests.support.training_fixtures import FRAGILE_MODEL, content, prepare, stepped, with_path

QUICK = ["--epochs", "2", "--microbatch-size", "8"]
TUTORIAL = [*QUICK, "--model", "tutorial"]
WHITE = 150
"""The training example that is all white where the model ``fragile`` is used."""


@dataclass(frozen=True)
class Failure:
    """The message of a failed run."""

    step: int
    shard: int
    what: str
    examples: list[int]
    command: list[str]

    @property
    def origin(self) -> str:
        """The first array that was not finite."""
        return self.what.partition("; first not finite: ")[2]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH with ``fragile:network``."""
    folder = tmp_path_factory.mktemp("fragile")
    (folder / "fragile.py").write_text(FRAGILE_MODEL)
    return with_path(folder)


@pytest.fixture
def white(image_set: MakeImageSet, tmp_path: Path) -> Path:
    """An image set in which one training image is white."""
    path = Path(shutil.copy(image_set(), tmp_path / "white.h5"))
    with h5py.File(path, "r+") as file:
        file["train/images"][WHITE] = 255
        for name in ("sha256", "blocks_sha256"):  # of the images as they were
            del file.attrs[name]
    return path


def fail(ranks: int, output: Path, *flags: str, **environment: str) -> Failure:
    """The message of a run that must fail with exit code 3, in two lines."""
    launcher = launcher_of(ranks)
    done = launcher.run(
        ranks, "-m", "distcnn.train", "--output", str(output), *flags, **environment
    )
    assert done.returncode == 3, done.stderr
    return read(done.stderr)


def read(stderr: str) -> Failure:
    found = re.search(
        r"^distcnn\.train: error: step (\d+), shard (\d+): (.*); training examples ([\d, ]+)\n"
        r"checkpoint saved \(step \1\); replay it in one process with: (.*)$",
        stderr,
        re.MULTILINE,
    )
    assert found, stderr
    assert stderr.count("distcnn.train: error:") == 1
    examples = [int(each) for each in found[4].split(", ")]
    return Failure(int(found[1]), int(found[2]), found[3], examples, shlex.split(found[5]))


def examples_of(data: Path, step: int, shard: int) -> list[int]:
    owner = prepare(data).training_step.shards[shard]
    epoch, step_of_epoch = divmod(step, 4)
    return [
        owner.first_example + int(index)
        for index in owner.order(epoch)[step_of_epoch * 8 : step_of_epoch * 8 + 8]
    ]


def replayed(failure: Failure, run: Path, cwd: Path, **environment: str) -> str:
    """The message of the command that the failed run printed; the command changes nothing."""
    before = content(run)
    assert failure.command[0] == "python"
    done = subprocess.run(
        [sys.executable, *failure.command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=clean_environment() | environment,
    )
    assert done.returncode == 3, done.stderr
    assert content(run) == before
    examples = ", ".join(map(str, failure.examples))
    found = re.search(
        rf"^distcnn\.train: error: step {failure.step}, shard {failure.shard}: (.*); training"
        rf" examples {examples}$",
        done.stderr,
        re.M,
    )
    assert found, done.stderr
    return found[1]


def saved(run: Path, failure: Failure) -> dict[str, bytes]:
    """The weights of the newest checkpoint, which has the state before the failed step."""
    store = CheckpointStore(run / CHECKPOINTS)
    assert store.steps()[-1] == failure.step
    return {
        name: array.tobytes() for name, array in store.load(failure.step).folder("weights").items()
    }


def cut(failure: Failure, output: Path, *flags: str, **environment: str) -> dict[str, bytes]:
    """The weights of a run that ends before the failed step."""
    SERIAL.train(1, output, *flags, "--max-steps", str(failure.step), **environment)
    with h5py.File(output / "weights.h5") as file:
        return {name: file[name][...].tobytes() for name in file}


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [3, *slow(1)])
def test_a_nan_of_one_example_is_traced_to_it(
    ranks: int, white: Path, fragile: str, tmp_path: Path
) -> None:
    flags, run = [*QUICK, "--model", "fragile:network"], tmp_path / "run"
    failure = fail(ranks, run, "--data", str(white), *flags, PYTHONPATH=fragile)
    # 203 examples in 8 shards: shard 5 has those from 126 to 151.
    assert failure.shard == 5
    assert (
        failure.step == next(step for step in range(4) if WHITE in examples_of(white, step, 5)) > 0
    )
    assert failure.examples == examples_of(white, failure.step, 5)
    column = failure.examples.index(WHITE)
    assert failure.origin == f"the output of fragile1 is nan at (0, {column})"
    assert failure.what.startswith(
        "the gradient of dense1.weight is nan: the training has diverged; lower --learning-rate or"
        " lengthen"
    )
    assert failure.command[1:] == [
        *("-m", "distcnn.train", "--resume", str(run), "--model", "fragile:network", "--debug"),
        *("--break-at-step", str(failure.step), "--shard", "5"),
    ]
    assert replayed(failure, run, tmp_path, PYTHONPATH=fragile) == failure.origin
    assert saved(run, failure) == cut(
        failure, tmp_path / "cut", "--data", str(white), *flags, PYTHONPATH=fragile
    )


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, *slow(3)])
def test_a_diverged_run_names_the_layer_and_the_parameter(
    ranks: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags, run = (
        ["--data", str(image_set()), *TUTORIAL, "--learning-rate", "1e20", "--warmup-steps", "0"],
        tmp_path / "run",
    )
    failure = fail(ranks, run, *flags)
    assert (failure.step, failure.shard) == (1, 0)
    assert failure.examples == examples_of(image_set(), 1, 0)
    assert re.match(r"the gradient of conv1\.weight is (nan|-?inf|-?[\d.]+e\+\d+)", failure.what)
    assert saved(run, failure) == stepped(1, *flags)
    assert replayed(failure, run, tmp_path) in (failure.what, failure.origin)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [3, *slow(1)])
def test_a_gradient_beyond_the_limit_is_named(
    ranks: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [
        *as_flags(data=image_set()),
        *TUTORIAL,
        *as_flags(learning_rate=0.1, warmup_steps=0, gradient_limit=32),
    ]
    run = tmp_path / "run"
    failure = fail(ranks, run, *flags)
    found = re.fullmatch(
        r"the gradient of conv1\.(?:weight|bias) is (-?[\d.]+), beyond the sum's limit of 32 for"
        r" one shard: "
        r".*lower --learning-rate.*; only if .* larger --gradient-limit",
        failure.what,
    )
    assert found
    assert abs(float(found[1])) > 32
    assert failure.examples == examples_of(image_set(), failure.step, failure.shard)
    assert replayed(failure, run, tmp_path) == failure.what
    assert saved(run, failure) == cut(failure, tmp_path / "cut", *flags)


@pytest.mark.parametrize(
    ("statistics", "what"),
    [
        ({"std": 1e-39}, r"is (nan|-?inf): .*; first not finite: the input is -?inf at \(.*\)"),
        *slow(
            ({"std": 1e-38}, r"is \S+e\+3\d, beyond the sum's limit of 65536 for one shard: .*"),
            (
                {"std": 3.2e-39},
                r"is (nan|-?inf): .*; first not finite: the output of conv1 is -?inf .*",
            ),
        ),
    ],
)
def test_images_out_of_range_fail_in_the_first_step(
    statistics: dict[str, float], what: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data, run = Path(shutil.copy(image_set(), tmp_path / "set.h5")), tmp_path / "run"
    with h5py.File(data, "r+") as file:
        file.attrs.update(statistics)
    failure = fail(1, run, "--data", str(data), *TUTORIAL)
    assert (failure.step, failure.shard, failure.examples) == (0, 0, examples_of(data, 0, 0))
    assert re.fullmatch(rf"the gradient of conv1\.weight {what}", failure.what)
    said = replayed(failure, run, tmp_path)
    assert said in (failure.what, failure.origin) or said.startswith(
        ("the output of conv1 is ", "the gradient of ")
    )  # --debug checks layers, not images
    assert saved(run, failure) == stepped(0, "--data", str(data), *TUTORIAL)


def test_a_learning_rate_beyond_float32_is_a_diverged_run(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags, run = (
        ["--data", str(image_set()), *TUTORIAL, "--learning-rate", "1e39", "--warmup-steps", "0"],
        tmp_path / "run",
    )
    failure = fail(1, run, *flags)
    assert (failure.step, failure.shard) == (1, 0)
    assert re.fullmatch(
        r"parameter conv1\.\w+ is (nan|-?inf) at \(.*\)", failure.origin.removeprefix("the ")
    )
    assert saved(run, failure) == stepped(1, *flags)
    assert replayed(failure, run, tmp_path)


@pytest.mark.mpi
def test_any_ranks_report_the_same_and_cannot_continue(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *TUTORIAL, "--gradient-limit", "4"]
    alone, three = fail(1, tmp_path / "1", *flags), fail(3, tmp_path / "3", *flags)
    assert (alone.step, alone.shard, alone.what, alone.examples) == (
        three.step,
        three.shard,
        three.what,
        three.examples,
    )
    again = SERIAL.run(1, "-m", "distcnn.train", "--resume", str(tmp_path / "3"))
    assert again.returncode == 3
    assert read(again.stderr) == three


def test_example_numbers_are_those_of_the_file(white: Path) -> None:
    """The tests above rely on this: example numbers identify the pixels in the file."""
    shard = prepare(white).training_step.shards[5]
    assert shard.first_example == 126
    assert np.all(shard.images[WHITE - 126] == 255)
