"""``distcnn.scaling --predict`` and ``distcnn.scaling.interconnect_test`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcnn.scaling.__main__ import main
from tests.conftest import SERIAL, Launcher, MakeImageSet

SHORT = [
    "--model",
    "mlp",
    "--microbatch-size",
    "4",
    "--num-shards",
    "4",
    "--steps",
    "3",
    "--repeats",
    "1",
    "--ranks",
    "1,2",
]
SLOW, FAST = "latency=5ms,bandwidth=100Mbit", "latency=25us,bandwidth=100Gbit"


@pytest.mark.slow
@pytest.mark.mpi
def test_a_sweep_predicts_and_another_network_measures_nothing_anew(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    sweep = [
        "-m",
        "distcnn.scaling",
        "--data",
        str(image_set()),
        *SHORT,
        "--launcher",
        f"{mpirun.mpirun} -n {{ranks}}",
    ]
    sweep += [
        "--output",
        str(tmp_path / "s"),
        "--repeats",
        "3",
    ]  # medians: a busy machine may spoil one of them
    done = SERIAL.run(
        1,
        *sweep,
        "--predict",
        "1,2,4,8,...,64",
        "--network",
        SLOW,
        "--network",
        FAST,
        "--predict-shards",
        "64",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "network   5ms, 100Mbit: waiting 5.000 ms, 100 Mbit/s" in done.stdout
    assert done.stdout.count("(calibrated on it)") == 2
    table = json.loads((tmp_path / "s" / "prediction.json").read_text())
    slow, fast = table["series"]
    assert [each["ranks"] for each in slow["predictions"]] == [1, 2, 4, 8, 16, 32, 64]
    pairs = list(zip(slow["predictions"], fast["predictions"], strict=True))
    assert all(
        one["step_seconds"] == other["step_seconds"] for one, other in pairs[:2]
    )  # on one host
    assert all(one["step_seconds"] > other["step_seconds"] for one, other in pairs[2:])
    assert slow["predictions"][-1]["bottleneck"] in ("latency", "bandwidth", "training set")
    assert all(abs(each["error"]) < 0.5 for each in table["compared"])
    assert (tmp_path / "s" / "prediction.png").read_bytes().startswith(b"\x89PNG")
    before = {
        each: each.stat().st_mtime_ns for each in (tmp_path / "s" / "measurements").glob("*.json")
    }
    again = SERIAL.run(
        1,
        *sweep,
        "--predict",
        "4",
        "--network",
        "latency=1s,bandwidth=1Gbit",
        "--ranks-per-host",
        "1",
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "6 of 6 measurements already done" in again.stdout
    assert before == {
        each: each.stat().st_mtime_ns for each in (tmp_path / "s" / "measurements").glob("*.json")
    }
    [only] = json.loads((tmp_path / "s" / "prediction.json").read_text())["series"]
    assert 4 < only["predictions"][0]["step_seconds"] < 20  # each sum waits four times for a second


def test_a_network_test_and_what_lacks_one(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "net.json"
    done = any_mpi.run(
        2, "-m", "distcnn.scaling.interconnect_test", "--json", str(file), "--seconds", "1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["world_size"] == 2
    assert all(len(rows) >= 3 for rows in found["rows"].values())
    assert "fit       waiting" in done.stdout
    sweep = [
        "-m",
        "distcnn.scaling",
        "--data",
        str(image_set()),
        *SHORT[:-1],
        "1",
        "--output",
        str(tmp_path / "s"),
    ]
    sweep += ["--launcher", f"{any_mpi.mpirun} -n {{ranks}}", "--predict", "4"]
    alone = Launcher(any_mpi.name, any_mpi.python, None)
    without = alone.run(1, *sweep)
    assert without.returncode == 2
    assert without.stderr.startswith(
        "distcnn.scaling: error: --predict 4 at 1 a host needs several hosts, and no network"
    )
    assert (tmp_path / "s" / "scaling.json").exists()
    predicted = alone.run(1, *sweep, "--network", str(file))
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    assert "network   net: waiting" in predicted.stdout


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--network", "latency=1ms,bandwidth=1Gbit"], "--network is about a prediction"),
        (["--predict", "x"], "--predict is 'x'"),
        (["--predict", "4", "--network", "latency=1"], "has no bandwidth"),
        (["--predict", "4", "--network", "no.json"], "cannot be read"),
    ],
)
def test_bad_flags_end_it_before_anything_is_measured(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--output", str(tmp_path / "s")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_one_rank_has_no_network() -> None:
    done = SERIAL.run(1, "-m", "distcnn.scaling.interconnect_test")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "distcnn.scaling.interconnect_test: error: one rank has no network: start one on each of"
        " two hosts"
    )


def test_help_tells_of_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--predict 4,8,...,4096" in text
    assert "a bare number is seconds" in " ".join(text.split())
