"""``distcnn.scaling --predict`` and ``distcnn.scaling.interconnect_test`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.scaling_fixtures import alone, of

COMMAND = ["-m", "distcnn.scaling"]
SHORT = [
    *("--model", "mlp", "--microbatch-size", "4", "--num-shards", "4", "--steps", "3"),
    *("--mode", "weak"),
]
SLOW, FAST = "latency=5ms,bandwidth=100Mbit", "latency=25us,bandwidth=100Gbit"


@pytest.mark.slow
@pytest.mark.mpi
def test_a_sweep_predicts_and_another_interconnect_measures_nothing_again(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *SHORT, "--ranks", "1,2", "--launcher", of(mpirun)]
    flags += ["--repeats", "3", "--output", str(tmp_path / "s")]
    predict = ["--predict", "1,2,4,8,...,64", "--interconnect", SLOW, "--network", FAST]
    done = SERIAL.run(1, *COMMAND, *flags, *predict)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5ms, 100Mbit: blocking 5.000 ms, 100 Mbit/s" in done.stdout
    assert done.stdout.count("(calibrated on it)") == 2
    slow, fast = json.loads((tmp_path / "s" / "prediction.json").read_text())["series"]
    ranks = [one["point"]["ranks"] for one in slow["predictions"]]
    assert ranks == [1, 2, 4, 8, 16, 32, 64]
    seconds = [
        (one["step_seconds"], other["step_seconds"])
        for one, other in zip(slow["predictions"], fast["predictions"], strict=True)
    ]
    assert all(one == other for one, other in seconds[:2])  # on one host
    assert all(one > other for one, other in seconds[2:])
    assert (tmp_path / "s" / "prediction.png").read_bytes().startswith(b"\x89PNG")
    predict = ["--predict", "4", "--interconnect", "latency=1s,bandwidth=1Gbit"]
    again = SERIAL.run(1, *COMMAND, *flags, *predict, "--ranks-per-host", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "6 of 6 measurements already done" in again.stdout
    [only] = json.loads((tmp_path / "s" / "prediction.json").read_text())["series"]
    assert 4 < only["predictions"][0]["step_seconds"] < 20  # every sum waits 4 times for a second


def test_an_interconnect_test_and_what_needs_one(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "net.json"
    test = ["-m", "distcnn.scaling.interconnect_test", "--json", str(file), "--seconds", "1"]
    done = any_mpi.run(2, *test)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["world_size"] == 2
    assert all(len(rows) >= 3 for rows in found["rows"].values())
    assert "fit       blocking" in done.stdout
    flags = ["--data", str(image_set()), *SHORT, "--ranks", "1", "--launcher", of(any_mpi)]
    flags += ["--repeats", "1", "--output", str(tmp_path / "s"), "--predict", "4"]
    without = alone(any_mpi).run(1, *COMMAND, *flags)
    assert without.returncode == 2
    assert "needs the network between hosts" in without.stderr
    assert (tmp_path / "s" / "scaling.json").exists()
    predicted = alone(any_mpi).run(1, *COMMAND, *flags, "--interconnect", str(file))
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    assert "network   net: blocking" in predicted.stdout


def test_one_rank_cannot_test_an_interconnect() -> None:
    done = SERIAL.run(1, "-m", "distcnn.scaling.interconnect_test")
    assert (done.returncode, done.stdout) == (2, "")
    assert "at least 2 ranks" in done.stderr


def test_its_old_name_leads_to_it() -> None:
    done = SERIAL.run(1, "-m", "distcnn.network")
    assert done.returncode != 0
    assert "distcnn.scaling.interconnect_test" in done.stderr
