"""Training from windows of the set: the same bits on any ranks and after a resume, within the
requested memory.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.conftest import (
    SERIAL,
    MakeImageSet,
    as_flags,
    clean_environment,
    launcher_of,
    mpi_launcher,
    slow,
)
from tests.support.training_fixtures import (
    assert_same_end,
    prepare,
    proof,
    result,
    train,
    train_with_stops,
    with_path,
)

# 1,003 examples in 8 shards of 125 or 126, cut at chunks of 8: with this limit into windows of 16,
# so 8 or 9 of them a shard.
CHUNK, WINDOWS = 8, ["--data-memory", "0.25"]
QUICK = as_flags(
    model="stopping:network", epochs=2, microbatch_size=12, check_every=2, checkpoint_every=4
)
STEPS_AN_EPOCH = 11
EXIT_INPUT, EXIT_STOPPED = 2, 85

CHANGING_MODEL = """
import os

from distcnn import models, nn


class Change(nn.Identity):
    calls = 0

    def function(self, x, out):
        super().function(x, out)
        Change.calls += 1
        if Change.calls == 6:
            with open(os.environ["CHANGED_FILE"], "ab") as file:
                file.write(b" ")


def network(input_shape, classes):
    return nn.Sequential([*models.tutorial(input_shape, classes).layers, Change()])
"""


def with_chunks(path: Path, source: Path, chunk: int, statistics: bool = True) -> Path:
    """A copy of the image set ``source`` with ``chunk`` images in each chunk."""
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        for split in ("train", "test"):
            images = old[f"{split}/images"][:]
            new.create_dataset(f"{split}/images", data=images, chunks=(chunk, *images.shape[1:]))
            new[f"{split}/labels"] = old[f"{split}/labels"][:]
        new.attrs.update(
            {
                key: value
                for key, value in old.attrs.items()
                if statistics or key not in ("mean", "std")
            }
        )
    return path


@pytest.fixture(scope="module")
def data(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_chunks(
        tmp_path_factory.mktemp("sets") / "set.h5", image_set(train=1003, test=77), CHUNK
    )


@pytest.fixture(scope="module")
def whole(data: Path, stopping: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in windows on one rank that was not stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    SERIAL.train(1, path, "--data", str(data), *QUICK, *WINDOWS, PYTHONPATH=stopping)
    assert [line["examples"] for line in proof(path) if line["kind"] == "epoch"] == [1003] * 2
    return path


# -- the same bits


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [3, *slow(2, 8)])
def test_the_weights_in_windows_do_not_depend_on_the_ranks(
    ranks: int, data: Path, whole: Path, stopping: str, tmp_path: Path
) -> None:
    mpi_launcher().train(
        ranks, tmp_path / "run", "--data", str(data), *QUICK, *WINDOWS, PYTHONPATH=stopping
    )
    assert_same_end(tmp_path / "run", whole, begun_on=ranks)


def test_a_limit_that_holds_the_set_gives_the_bits_of_memory_and_a_smaller_one_others(
    data: Path, whole: Path, stopping: str, tmp_path: Path
) -> None:
    SERIAL.train(1, tmp_path / "memory", "--data", str(data), *QUICK, PYTHONPATH=stopping)
    SERIAL.train(
        1,
        tmp_path / "all",
        *as_flags(data=data),
        *QUICK,
        *as_flags(data_memory=100),
        PYTHONPATH=stopping,
    )
    assert_same_end(tmp_path / "all", tmp_path / "memory")
    assert result(whole)["params_sha256"] != result(tmp_path / "memory")["params_sha256"]
    assert (
        result(whole)["dataset"] == result(tmp_path / "memory")["dataset"]
    )  # its content is the same


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("signal", "ranks", "calls"),
    [
        ("SIGUSR1", (1, 3, 2), (6 * 8, 20)),  # in the middle of the first epoch, then of the second
        *slow(
            ("SIGKILL", (2, 1), (7 * 4,)),
            ("SIGUSR1", (3, 8), (STEPS_AN_EPOCH * 2,)),  # in an epoch's last step
        ),
    ],
)
def test_a_stopped_run_continues_in_its_windows(
    signal: str,
    ranks: tuple[int, ...],
    calls: tuple[int, ...],
    data: Path,
    whole: Path,
    stopping: str,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    flags = ["--data", str(data), *QUICK, *WINDOWS, "--output", str(run)]
    train_with_stops(flags, run, signal, ranks, calls, stopping)
    assert_same_end(run, whole, begun_on=ranks[0])


def test_a_run_in_windows_is_verified_and_debugged(whole: Path, stopping: str) -> None:
    for flags in ([], ["--from-step", "5", "--to-step", "9"]):
        done = SERIAL.run(
            1, "-m", "distcnn.verify", str(whole), "--trust-model", *flags, PYTHONPATH=stopping
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "identical: steps " in done.stdout
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "distcnn.train",
            *as_flags(resume=whole, trust_model=True, break_at_step=6, shard=7),
        ],
        input=(
            "p ('labels', microbatch.labels.tolist(), shard.chosen(epoch, step_of_epoch,"
            " 12).tolist())\n"
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | {"PYTHONPATH": stopping},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "('labels', [" in done.stdout
    assert "replayed step 6: loss " in done.stdout


def test_statistics_that_the_file_lacks_are_those_of_memory(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = with_chunks(tmp_path / "set.h5", image_set(train=1003, test=77), CHUNK, statistics=False)
    runs = [prepare(path, data_memory=memory) for memory in (0.0, 0.25)]
    microbatches: list[Any] = [run.training_step.lane.microbatch for run in runs]
    assert microbatches[0]._scale.tobytes() == microbatches[1]._scale.tobytes()
    assert microbatches[0]._shift.tobytes() == microbatches[1]._shift.tobytes()
    assert runs[0].dataset_record.content_sha256 == runs[1].dataset_record.content_sha256
    for run in runs:
        assert run.evaluation().examples == 77


# -- what is refused


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_limit_too_small_is_refused_with_the_least(
    ranks: int, data: Path, tmp_path: Path
) -> None:
    done = train(
        launcher_of(ranks), ranks, *as_flags(data=data, output=tmp_path / "run", data_memory=0.05)
    )
    assert done.returncode == EXIT_INPUT
    assert done.stderr.count("--data-memory is 0.05: this image set needs at least 0.2 MiB") == 1
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_limit_and_its_chunks(
    data: Path, whole: Path, stopping: str, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for left in ("result.json", "weights.h5"):
        (run / left).unlink()
    done = train(SERIAL, 1, "--resume", str(run), "--data-memory", "0.5", PYTHONPATH=stopping)
    assert done.returncode == EXIT_INPUT
    assert "--data-memory 0.5 (the run has 0.25)" in done.stderr
    other = with_chunks(tmp_path / "other.h5", data, 4)
    done = train(SERIAL, 1, "--resume", str(run), "--data", str(other), PYTHONPATH=stopping)
    assert done.returncode == EXIT_INPUT
    assert "in an order that this distcnn does not draw" in done.stderr
    assert "a file of the same chunks (--data-memory)" in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_bad_label_is_named_at_the_start(ranks: int, data: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copy(data, tmp_path / "set.h5"))
    with h5py.File(spoilt, "r+") as file:
        file["train/labels"][700] = 10
    done = train(
        launcher_of(ranks), ranks, *as_flags(data=spoilt, output=tmp_path / "run"), *WINDOWS
    )
    assert done.returncode == EXIT_INPUT
    assert done.stderr.count("/train/labels[700] is 10, out of range for 10 classes") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_file_that_changes_under_the_run_ends_all_ranks(
    ranks: int, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "changing.py").write_text(CHANGING_MODEL)
    changed, run = Path(shutil.copy(data, tmp_path / "set.h5")), tmp_path / "run"
    flags = ["--data", str(changed), "--model", "changing:network", "--output", str(run), *WINDOWS]
    done = train(
        launcher_of(ranks), ranks, *flags, PYTHONPATH=with_path(tmp_path), CHANGED_FILE=str(changed)
    )
    assert done.returncode == EXIT_INPUT, done.stderr
    assert done.stderr.count("set.h5 was changed while it was read") == 1
    assert "Traceback" not in done.stderr


# -- memory

LIMIT_MIB, TIMES = 16, 4
MEASURE = """
import sys
from pathlib import Path

from distcnn.train import main

assert main(sys.argv[1:]) == 0
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print("peak", lines["VmHWM"].split()[0])
"""


def peak_mib(data: Path, output: Path, *flags: str) -> float:
    """The peak resident size of a run of one epoch."""
    done = SERIAL.run(
        1, "-c", MEASURE, *as_flags(data=data, output=output, model="mlp", epochs=1), *flags
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("statistics", [True, False])
def test_what_a_run_in_windows_keeps_stays_within_the_limit(
    statistics: bool, image_set: MakeImageSet, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    examples = TIMES * LIMIT_MIB * 2**20 // 784
    for name, count in (("large", examples), ("small", 300)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for split, size in (("train", count), ("test", count // 4)):
                images = rng.integers(0, 256, (size, 28, 28)).astype(np.uint8)
                file.create_dataset(f"{split}/images", data=images, chunks=(min(256, size), 28, 28))
                file[f"{split}/labels"] = rng.integers(0, 10, size)
            file.attrs.update({"classes": 10} | ({"mean": 0.5, "std": 0.3} if statistics else {}))
    small = peak_mib(tmp_path / "small.h5", tmp_path / "1")
    windows = (
        peak_mib(tmp_path / "large.h5", tmp_path / "2", "--data-memory", str(LIMIT_MIB)) - small
    )
    memory = peak_mib(tmp_path / "large.h5", tmp_path / "3") - small
    print(
        f"measured: {memory:.1f} MiB more than a small set in memory, {windows:.1f} MiB in windows"
    )
    assert memory > TIMES * LIMIT_MIB
    assert windows < LIMIT_MIB
