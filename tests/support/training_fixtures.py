"""What tests of training share: runs in this process, a user's own models that stop or fail, and
the content of run directories.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from distcnn.checkpoints import CheckpointStore
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.datasets import Split, write_dataset
from distcnn.distributed import Communicator
from distcnn.distributed.blas_threads import THREADS_PER_RANK
from distcnn.training.checkpointing import RunRecorder
from distcnn.training.line_files import ChainedLog
from distcnn.training.loop import Loop
from distcnn.training.progress import NoProgress
from distcnn.training.receipt import PREVIOUS
from distcnn.training.results import damage_of
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.setup import Run, prepare_run
from distcnn.training.state import State
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, clean_environment, launcher_of

EXIT_STOPPED = 85

# The tutorial network behind a layer that sends its own process a signal: so a run stops at the
# same place each time.
STOPPING_MODEL = """
import os
import signal
import time

from distcnn import models, nn


RANK = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0"))


class Stop(nn.Identity):
    calls = 0

    def function(self, x, out):
        super().function(x, out)
        Stop.calls += 1
        if str(Stop.calls) == os.environ.get("STOP_AT_CALL") and RANK == "0":
            time.sleep(0.1)  # the checkpoint before is on the disk by now
            os.kill(os.getpid(), signal.Signals[os.environ["STOP_SIGNAL"]])
            time.sleep(0.1)  # the thread that reads signals has seen it by now


def network(input_shape, classes):
    return nn.Sequential([*models.tutorial(input_shape, classes).layers, Stop()])
"""

# A layer that takes anything but a white image.
FRAGILE_MODEL = """
import numpy as np

from distcnn import nn


class Fragile(nn.Identity):
    kind = "fragile"

    def function(self, x, out):
        super().function(x, out)
        out[:, x.mean(axis=0) > 2] = np.nan


def network(input_shape, classes):
    return nn.Sequential([nn.Flatten(), Fragile(), nn.Dense(20), nn.ReLU(), nn.Dense(classes)])
"""


@pytest.fixture(scope="session")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH with ``stopping:network``, which stops at the STOP_AT_CALL-th call of forward
    on rank 0.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "stopping.py").write_text(STOPPING_MODEL)
    return with_path(folder)


def train_with_stops(
    flags: Sequence[str],
    run: Path,
    signal: str,
    ranks: Sequence[int],
    calls: Sequence[int],
    stopping: str,
) -> None:
    """Train on ``ranks[0]`` ranks, stop at the call ``calls[0]``, resume on ``ranks[1]`` ..., until
    the run is finished.
    """
    for index, world_size in enumerate(ranks):
        stops = index < len(calls)
        stop = {"STOP_SIGNAL": signal, "STOP_AT_CALL": str(calls[index])} if stops else {}
        words = ["--resume", str(run)] if index else flags
        done = train(launcher_of(world_size), world_size, *words, PYTHONPATH=stopping, **stop)
        if stops and signal == "SIGUSR1":
            assert done.returncode == EXIT_STOPPED, done.stderr
        else:
            assert (done.returncode == 0) == (not stops), done.stderr
        assert (run / "result.json").exists() == (not stops)


SAVED = [2, 4, 6, 8, 10, 12]
"""The steps of which ``finished`` has a checkpoint: 4 steps an epoch, 3 epochs, one every 2 steps.
"""


@pytest.fixture(scope="session")
def finished(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with few default flags that was never stopped. Do not change it."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    flags = as_flags(model="tutorial", epochs=3, microbatch_size=8, seed=3, log_every=2)
    SERIAL.train(
        1, path, *as_flags(data=image_set()), *flags, *as_flags(checkpoint_every=2, keep=9)
    )
    assert store_of(path).steps() == SAVED
    return path


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """The same run, as a kill after the checkpoint of step 10 leaves it."""
    return copy_as_killed(finished, tmp_path / "killed", lost=12)


CHECKED = as_flags(
    model="tutorial", epochs=3, microbatch_size=8, check_every=2, checkpoint_every=3, keep=9
)
"""Flags of a run with many hashes in its receipt. With the default image set 4 steps an epoch; on
one rank 8 calls of forward a step, and 10 in each evaluation.
"""


@pytest.fixture(scope="session")
def checked(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank; checkpoints of the steps 3, 4, 6, 8, 9, 12. Do not change it."""
    path = tmp_path_factory.mktemp("run") / "run"
    SERIAL.train(1, path, "--data", str(image_set()), *CHECKED)
    return path


@pytest.fixture
def checked_copy(checked: Path, tmp_path: Path) -> Path:
    """A copy of ``checked`` that a test may change."""
    return Path(shutil.copytree(checked, tmp_path / "copy"))


def copy_as_killed(run: Path, path: Path, lost: int) -> Path:
    """A copy of ``run`` without its results and the last checkpoint, of the step ``lost``."""
    shutil.copytree(run, path)
    results = (
        path / name for name in ("SHA256SUMS", "result.json", "weights-best.h5", "weights.h5")
    )
    for left in (*results, store_of(path).path_of(lost)):
        left.unlink()
    return path


def store_of(run: Path) -> CheckpointStore:
    """The run's checkpoints."""
    return CheckpointStore(run / CHECKPOINTS)


def resume(run: Path, *flags: str) -> str:
    """Resume the run in place; return the command's output."""
    done = train(SERIAL, 1, "--resume", str(run), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_same_end(run: Path, whole: Path, begun_on: int = 1) -> None:
    """``run`` has the bits and lines of ``whole``, which began on one rank."""
    assert result(run) == {**result(whole), "world_size": begun_on}
    assert metrics(run) == metrics(whole)
    assert table(run) == table(whole)
    assert proof(run) == proof(whole)
    for name in ("weights.h5", "weights-best.h5"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert damage_of(run) is None


def with_path(folder: Path) -> str:
    """A PYTHONPATH that includes ``folder``."""
    return os.pathsep.join([clean_environment()["PYTHONPATH"], str(folder)])


def prepare(data: Path, communicator: Communicator | None = None, **flags: Any) -> Run:
    """A run of the tutorial network in this process: with the default image set, 4 steps an epoch,
    with 8 examples of each shard.
    """
    config = Config(
        **{"data": str(data), "model": "tutorial", "microbatch_size": 8, "epochs": 2, **flags}
    )
    return prepare_run(config, communicator or Communicator(), print)


def loop_of(run: Run, state: State | None = None) -> Loop:
    """The training loop, without output."""
    return Loop(run, state or State())


class Said(NoProgress):
    """Records the lines that were said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def train_in_process(data: Path, **flags: Any) -> list[str]:
    """Train to the end in this process without writing; return what was said, warnings about the
    input first.
    """
    said = Said()
    config = Config(
        **{"data": str(data), "model": "tutorial", "microbatch_size": 8, "epochs": 2, **flags}
    )
    with threadpool_limits(THREADS_PER_RANK):
        run = prepare_run(config, Communicator(), said.say)
        Loop(run, State(), RunRecorder(), said).train()
    return said.lines


def train(
    launcher: Launcher, ranks: int, *flags: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, whether it succeeds or not; a resume trusts the test's own model."""
    trust = ["--trust-model"] if "--resume" in flags else []
    return launcher.run(ranks, "-m", "distcnn.train", *flags, *trust, **environment)


def stepped(steps: int, *flags: str) -> dict[str, bytes]:
    """The weights after ``steps`` steps in this process, without an evaluation, for which such
    weights may be too large.
    """
    with threadpool_limits(THREADS_PER_RANK):
        run = prepare_run(parse_request(flags).config, Communicator(), print)
        loop_of(run).go_to(steps, end_epoch=False)
    return {name: values.tobytes() for name, values in run.parameters.named().items()}


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below ``folder``, with its bytes and modification time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without speeds."""
    return [
        _without(json.loads(line), "images_per_second")
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def table(run: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` without speeds."""
    with (run / "metrics.csv").open(newline="") as file:
        return [_without(row, "images_per_second") for row in csv.DictReader(file)]


def result(run: Path) -> dict[str, Any]:
    """``result.json`` without times, and without the hash of the receipt, which has them."""
    return _without(
        json.loads((run / "result.json").read_text()),
        *("images_per_second", "seconds_to_target", "receipt_sha256"),
    )


def receipt(run: Path) -> list[dict[str, Any]]:
    """The lines of ``receipt.jsonl``, without their hashes of the lines before."""
    lines = map(json.loads, (run / "receipt.jsonl").read_text().splitlines())
    return [_without(line, PREVIOUS) for line in lines]


def write_receipt(run: Path, lines: list[dict[str, Any]]) -> None:
    """Write ``lines`` to ``receipt.jsonl``, as a forger would: in a chain without a break."""
    log = ChainedLog("receipt.jsonl", lambda: run, print)
    log.restore("")
    for line in lines:
        log.add(line)


def proof(run: Path) -> list[dict[str, Any]]:
    """The receipt's lines without those on starts and resumes."""
    return [line for line in receipt(run) if line["kind"] not in ("start", "resume")]


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if key not in names and not key.endswith("_seconds")
    }


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image set without anything to learn, sorted by class: accuracies only go up and down."""
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("noise") / "noise.h5"
    splits = {
        split: Split(count, [(rng.integers(0, 256, (count, 28, 28)).astype(np.uint8), labels)])
        for split, count in (("train", 203), ("test", 77))
        for labels in [np.sort(rng.integers(0, 4, count))]
    }
    write_dataset(path, name="noise", source="made by a test", classes=4, splits=splits)
    return path


PATIENT = as_flags(
    model="stopping:network",
    num_shards=4,
    microbatch_size=16,
    validation=43,
    patience=3,
    epochs=30,
    schedule="constant",
    warmup_steps=0,
    learning_rate=0.01,
    keep=2,
    check_every=4,
)
"""Flags of a run on ``noise`` that patience ends: 3 steps an epoch. On one rank 4 calls of forward
a step, 3 in each validation, 5 in each test.
"""


@pytest.fixture(scope="session")
def patient(noise: Path, stopping: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank that patience has ended: the best weights are not the last ones.

    Do not change it.
    """
    path = tmp_path_factory.mktemp("patient") / "run"
    done = train(SERIAL, 1, *as_flags(data=noise, output=path), *PATIENT, PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    (path / "stdout").write_text(done.stdout)
    return path
