"""The promise: one params_sha256 for any number of ranks, under any MPI, and in one process without
MPI.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, slow

FEW, MANY = (1, 3, 8), (2, 4, 5, 7)
"""Numbers of ranks, for every run of the tests and for slow ones."""

# 1,003 and 203 are divisible by nothing that matters: shards differ in size, the last steps of an
# epoch are padded, and two epochs are run.
RUNS = {
    "lenet": (
        {"train": 1003, "test": 77},
        ["--model", "lenet", "--microbatch-size", "16", "--epochs", "2", "--warmup-steps", "4"],
    ),
    "wide": (
        {"train": 203, "test": 33},
        ["--model", "wide", "--microbatch-size", "8", "--epochs", "2", "--learning-rate", "0.01"],
    ),
    "lenet5-adamw-colour": (
        {"train": 101, "test": 19, "shape": (26, 30, 3)},
        as_flags(
            model="lenet5",
            microbatch_size=5,
            epochs=2,
            optimizer="adamw",
            learning_rate=0.001,
            num_shards=9,
        ),
    ),
}


@pytest.mark.parametrize(
    ("name", "world_sizes"),
    [("lenet", FEW), *slow(("lenet", MANY), ("wide", FEW), ("lenet5-adamw-colour", FEW + MANY))],
)
def test_the_weights_do_not_depend_on_the_ranks(
    name: str,
    world_sizes: tuple[int, ...],
    any_mpi: Launcher,
    serial: Launcher,
    image_set: MakeImageSet,
    tmp_path: Path,
) -> None:
    sizes, flags = RUNS[name]
    flags = ["--data", str(image_set(**sizes)), *flags]
    alone = serial.train(1, tmp_path / "alone", *flags)
    assert alone["epochs"] == 2
    for ranks in world_sizes:
        result = any_mpi.train(ranks, tmp_path / str(ranks), *flags)
        assert result["world_size"] == ranks
        for key in ("params_sha256", "test_correct", "test_loss", "train_loss", "steps"):
            assert result[key] == alone[key], f"{key} on {ranks} ranks of {any_mpi.name}"
        assert metrics_without_times(tmp_path / str(ranks)) == metrics_without_times(
            tmp_path / "alone"
        )


def test_weights_are_written_in_pytorch_shapes_and_are_what_was_hashed(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    import hashlib

    result = any_mpi.train(3, tmp_path / "run", "--data", str(image_set()), "--max-steps", "2")
    with h5py.File(tmp_path / "run" / "weights.h5") as file:
        shapes = {name: dataset.shape for name, dataset in file.items()}
        flat = np.concatenate([dataset[...].ravel() for dataset in file.values()])
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "dense1.weight": (500, 800),
        "dense1.bias": (500,),
        "dense2.weight": (10, 500),
        "dense2.bias": (10,),
    }
    assert flat.size == result["parameters"] == 431_080
    assert hashlib.sha256(flat.astype("<f4").tobytes()).hexdigest() == result["params_sha256"]


def test_the_fast_reduction_trains_on_several_ranks(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), model="tutorial", epochs=1, warmup_steps=2)
    fast = any_mpi.train(3, tmp_path / "fast", *flags, "--reduction", "fast")
    exact = SERIAL.train(1, tmp_path / "exact", *flags)
    assert fast["train_loss"] == pytest.approx(exact["train_loss"], rel=1e-3)


def metrics_without_times(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"step", "epoch"}
    return [
        {key: value for key, value in line.items() if key != "images_per_second"} for line in lines
    ]
