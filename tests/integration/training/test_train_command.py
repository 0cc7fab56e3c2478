"""``python -m distcnn.train`` in one process: what it writes and prints, and every bad input."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, slow, write_image_set
from tests.support.training_fixtures import content, metrics, train

QUICK = ["--model", "tutorial", "--epochs", "2", "--log-every", "2", "--microbatch-size", "8"]


def test_a_run_directory_holds_everything(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data = image_set()
    result = serial.train(1, tmp_path / "run", "--data", str(data), *QUICK, "--seed", "5")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    files = [
        "config.toml",
        "metrics.csv",
        "metrics.jsonl",
        "receipt.jsonl",
        "result.json",
        "weights-best.h5",
        "weights.h5",
    ]
    assert names == [".lock", "SHA256SUMS", "checkpoints", *files]
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["seed"] == 5
    # 203 examples in 8 shards: the largest has 26, so 4 steps of 8 an epoch.
    expected = {"epochs": 2, "steps": 8, "world_size": 1, "num_shards": 8, "microbatch_size": 8}
    assert expected.items() <= result.items()
    assert result["test_examples"] == 77
    assert result["test_accuracy"] == result["test_correct"] / 77
    assert result["dataset"]["train_examples"] == 203
    assert result["images_per_second"] > 0
    lines = metrics(tmp_path / "run")
    assert [(line["kind"], line["step"]) for line in lines] == [
        *(("step", 2), ("step", 4), ("epoch", 4)),
        *(("step", 6), ("step", 8), ("epoch", 8)),
    ]
    assert lines[-1]["train_loss"] == result["train_loss"]
    assert all(0 <= line["test_accuracy"] <= 1 for line in lines if line["kind"] == "epoch")


def test_the_stored_configuration_repeats_the_run(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    first = serial.train(
        1, tmp_path / "first", *as_flags(data=image_set()), *QUICK, *as_flags(learning_rate=0.03)
    )
    again = serial.train(1, tmp_path / "again", "--config", str(tmp_path / "first" / "config.toml"))
    assert again["params_sha256"] == first["params_sha256"]


def test_it_learns(serial: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = as_flags(
        data=image_set(train=800, test=200), model="lenet", epochs=4, learning_rate=0.01
    )
    assert serial.train(1, tmp_path / "run", *flags)["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("flags", "steps", "tested"),
    [
        (["--max-steps", "3"], 3, [3]),
        (["--eval-every", "0"], 8, [8]),
        (["--epochs", "3", "--eval-every", "2"], 12, [8, 12]),
    ],
)
def test_where_it_stops_and_tests(
    flags: list[str], steps: int, tested: list[int], image_set: MakeImageSet, tmp_path: Path
) -> None:
    result = SERIAL.train(1, tmp_path / "run", "--data", str(image_set()), *QUICK, *flags)
    lines = metrics(tmp_path / "run")
    assert result["steps"] == steps
    assert [line["step"] for line in lines if "test_accuracy" in line] == tested


def test_max_steps_takes_the_same_steps_as_the_longer_run(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--log-every", "1"]
    serial.train(1, tmp_path / "long", *flags)
    serial.train(1, tmp_path / "short", *flags, "--max-steps", "3")
    losses = [
        [line["loss"] for line in metrics(tmp_path / run) if line["kind"] == "step"]
        for run in ("long", "short")
    ]
    assert losses[1] == losses[0][:3]


@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "squared-error"],
        ["--optimizer", "adam"],
        *slow(["--optimizer", "sgd"], ["--schedule", "step"]),
    ],
)
def test_other_losses_optimizers_and_schedules_train(
    flags: list[str], image_set: MakeImageSet, tmp_path: Path
) -> None:
    rate = ["--learning-rate", "0.001"] if {"adam", "squared-error"} & set(flags) else []
    SERIAL.train(1, tmp_path / "run", "--data", str(image_set()), *QUICK, *flags, *rate)
    lines = metrics(tmp_path / "run")
    losses = [line["train_loss"] for line in lines if line["kind"] == "epoch"]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("examples", [8, 9])
def test_as_many_examples_as_shards_or_hardly_more_are_each_used_once(
    examples: int, tmp_path: Path
) -> None:
    data = write_image_set(tmp_path / "set.h5", train=examples, test=1)
    result = SERIAL.train(1, tmp_path / "run", "--data", str(data), *QUICK)
    assert result["steps"] == 2  # the loop itself checks that each example was used once an epoch


@pytest.mark.parametrize("examples", [1, 7])
def test_fewer_examples_than_shards_are_refused(examples: int, tmp_path: Path) -> None:
    data = write_image_set(tmp_path / "set.h5", train=examples, test=1)
    done = train(SERIAL, 1, "--data", str(data), "--output", str(tmp_path / "run"), *QUICK)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{examples} example" in done.stderr
    assert "--num-shards" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_image_set_without_statistics_gives_the_bits_of_one_with_them(
    serial: Launcher, tmp_path: Path
) -> None:
    data = write_image_set(tmp_path / "set.h5")
    with_them = serial.train(1, tmp_path / "with", "--data", str(data), *QUICK)
    with h5py.File(data, "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
    without = serial.train(1, tmp_path / "without", "--data", str(data), *QUICK)
    assert without["params_sha256"] == with_them["params_sha256"]


def test_a_users_own_network_is_trained(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from distcnn import nn\ndef network(input_shape, classes):\n    return"
        " nn.Sequential([nn.Conv2d(4, (3, 5), stride=(2, 1), padding=(1, 0)), nn.Tanh(),"
        " nn.AvgPool2d(3, 2),\n                          nn.Flatten(), nn.Dense(classes)])\n"
    )
    path = f"{Path(__file__).parents[3]}:{tmp_path}"
    flags = ["--data", str(image_set()), *QUICK, "--model", "mine:network"]
    assert serial.train(1, tmp_path / "run", *flags, PYTHONPATH=path)["model"] == "mine:network"


# -- bad input


def with_labels(value: int, split: str = "train") -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        file[f"{split}/labels"][0] = value

    return damage


def without(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


BAD_FILES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "label too large": (with_labels(10), "/train/labels[0] is 10, out of range for 10 classes"),
    "label negative": (with_labels(-1, "test"), "/test/labels[0] is -1"),
    "missing dataset": (without("test/images"), "dataset /test/images is missing"),
}


def refuse(tmp_path: Path, *flags: str) -> str:
    """Run with bad input: exit code 2 soon, one line, no run directory. Returns the line."""
    output = [] if "--output" in flags else ["--output", str(tmp_path / "run")]
    start = time.monotonic()
    done = SERIAL.run(1, "-m", "distcnn.train", *output, *flags)
    assert time.monotonic() - start < 30
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()
    return done.stderr


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_image_set_is_refused(name: str, tmp_path: Path) -> None:
    damage, message = BAD_FILES[name]
    path = write_image_set(tmp_path / "set.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    line = refuse(tmp_path, "--data", str(path))
    assert message in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "no/such.h5"], "no such file: no/such.h5"),
        (["--data", "tests"], "tests is a folder"),
        (["--model", "nosuch"], "unknown model 'nosuch': choose one of lenet"),
        (["--model", "nosuch:function"], "model 'nosuch:function' cannot be imported"),
        (["--microbatch-size", "0"], "--microbatch-size is 0"),
        (["--optimizer", "sdg"], "unknown --optimizer 'sdg'"),
        (["--config", "pyproject.toml"], "unknown key 'build-system'"),
        (["--source", "no/such/folder"], "--source: no such folder: no/such/folder"),
        (["--world-size", "2"], "expected 2 ranks"),
    ],
)
def test_a_bad_flag_is_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in refuse(tmp_path, *flags)


def test_images_too_small_for_the_network_are_refused(tmp_path: Path) -> None:
    path = write_image_set(tmp_path / "set.h5", shape=(24, 8))
    line = refuse(tmp_path, "--data", str(path))
    assert "model 'lenet' does not fit images of 1x24x8" in line
    assert "conv2: a window of kernel_size 5x5 is larger than its padded input of 10x2" in line
    assert "--model mlp" in line


@pytest.mark.parametrize("output", ["/proc/run", "{folder}/file/run", "{folder}/file", "x" * 300])
def test_an_output_that_cannot_be_written_is_refused(
    output: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refuse(tmp_path, "--data", str(image_set()), "--output", output.format(folder=tmp_path))
    assert "cannot be written" in line


def test_nothing_of_an_earlier_run_is_overwritten(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    serial.train(1, tmp_path / "kept", "--data", str(image_set()), *QUICK)
    before = content(tmp_path / "kept")
    line = refuse(tmp_path, "--data", str(image_set()), "--output", str(tmp_path / "kept"))
    assert "already holds a run" in line
    assert content(tmp_path / "kept") == before
