"""What the ranks of a point measure: the same steps on any number of ranks, a split that adds up
and puts time where it was spent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distcnn.config import Config
from distcnn.distributed import SerialCommunicator
from distcnn.errors import InputError
from distcnn.scaling.result import GROUPS
from distcnn.scaling.worker import measure, write_result
from distcnn.training.setup import prepare_run
from tests.conftest import SERIAL, Launcher, MakeImageSet

FLAGS = ["--model=lenet", "--num-shards=3", "--microbatch-size=4", "--steps=5"]


def measured(
    launcher: Launcher, ranks: int, file: Path, *flags: str, **environment: str
) -> dict[str, Any]:
    done = launcher.run(
        ranks, "-m", "distcnn.scaling.worker", f"--result={file}", *flags, **environment
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def check_split(result: dict[str, Any]) -> None:
    split = result["split"]
    for each in [split["mean"], *split["ranks"]]:
        assert sum(each[f"{group}_seconds"] for group in GROUPS) == pytest.approx(
            each["step_seconds"]
        )
    for each in split["ranks"]:
        assert sum(each["parts"].values()) == pytest.approx(each["step_seconds"])
        assert min(each[f"{group}_seconds"] for group in GROUPS) >= 0
    assert len(split["ranks"]) == result["world_size"]
    least = min(each["waiting_seconds"] for each in split["ranks"])
    assert split["ranks"][split["slowest_rank"]]["waiting_seconds"] == least


def test_one_rank(image_set: MakeImageSet, tmp_path: Path) -> None:
    result = measured(SERIAL, 1, tmp_path / "r.json", f"--data={image_set()}", *FLAGS)
    check_split(result)
    assert (result["world_size"], result["steps"], result["steps_taken"]) == (1, 5, 3 + 5 + 2)
    assert result["step_seconds"] == pytest.approx(sum(result["step_seconds_each"]) / 5)
    assert result["images_per_second"] == pytest.approx(
        12 / result["step_seconds"]
    )  # no padded step: 3 shards x 4
    assert result["split"]["mean"]["waiting_seconds"] == 0
    assert (result["hosts"], result["train_examples"]) == ([SerialCommunicator().hosts[0]], 203)


def test_any_ranks_under_any_mpi_end_with_the_bits_of_one(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data = f"--data={image_set()}"
    alone = measured(SERIAL, 1, tmp_path / "1.json", data, *FLAGS)
    for ranks, overlap in ((2, "off"), (2, "on"), (3, "off")):
        result = measured(
            any_mpi,
            ranks,
            tmp_path / f"{ranks}-{overlap}.json",
            data,
            *FLAGS,
            f"--overlap={overlap}",
        )
        check_split(result)
        assert (result["world_size"], result["overlap"]) == (ranks, overlap == "on")
        assert (result["params_sha256"], result["steps_taken"]) == (
            alone["params_sha256"],
            alone["steps_taken"],
        )
        assert sum(result["shards_of_ranks"]) == 3
        gradient = 8 * result["parameters"]
        assert result["kept_gradients"] == (overlap == "off")
        assert (sum(result["message_bytes"]) >= gradient) == (
            overlap == "on"
        )  # kept gradients do not travel


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_others_wait_for_a_slow_rank(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path, overlap: str
) -> None:
    flags = [
        f"--data={image_set()}",
        "--model=tests.support.staged:network",
        "--num-shards=4",
        "--microbatch-size=4",
        "--steps=3",
    ]
    nap = 0.1  # for each of two shards
    result = measured(
        any_mpi,
        2,
        tmp_path / "r.json",
        *flags,
        f"--overlap={overlap}",
        STAGED_PACE=str(nap),
        STAGED_PACE_RANKS="1",
    )
    check_split(result)
    first, slow = result["split"]["ranks"]
    assert result["split"]["slowest_rank"] == 1
    assert slow["compute_seconds"] >= 2 * nap
    assert first["waiting_seconds"] > nap


def test_the_middle_half_of_steps_is_the_same_on_all_ranks(image_set: MakeImageSet) -> None:
    run = prepare_run(
        Config(data=str(image_set()), model="mlp", num_shards=2, microbatch_size=4),
        SerialCommunicator(),
        print,
    )
    result = measure(run, 12)
    assert result["split"]["steps"] == 2  # of 4
    assert result["steps_taken"] == 3 + 12 + 4


def test_a_result_is_never_written_over(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", {"a": 1})
    with pytest.raises(
        InputError, match="started several processes that know nothing of each other"
    ):
        write_result(tmp_path / "r.json", {"a": 2})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": 1}
    with pytest.raises(InputError, match="cannot be written"):
        write_result(tmp_path / "nowhere" / "r.json", {})
