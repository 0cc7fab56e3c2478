"""On a healthy machine the doctor reports no fault, and warns only about the machine itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Launcher, MakeImageSet
from tests.support.examined import DOCTOR, OF_THE_MACHINE, doctor
from tests.support.running import running

OF_ALL = {
    "python",
    "numpy",
    "blas",
    "hdf5",
    "distcnn",
    "processor",
    "environment",
    "mpi",
    "memory",
    "limits",
}
OF_ALL |= {"ranks", "hosts", "output", "data", "products", "portable", "sum"}
TOGETHER = {"mpi threads", "clock"}


def test_alone(serial: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    seen = doctor(
        serial, 1, "--data", str(image_set()), "--output", str(tmp_path / "runs" / "mine")
    )
    seen.only_bad()
    assert seen.names("good") >= OF_ALL
    assert seen.names("warning") <= OF_THE_MACHINE | {"launcher"}
    assert list(tmp_path.iterdir()) == []


def test_on_ranks(any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = [
        "--data",
        str(image_set()),
        "--output",
        str(tmp_path / "runs"),
        "--json",
        str(tmp_path / "doctor.json"),
    ]
    seen = doctor(any_mpi, 2, *flags)
    seen.only_bad()
    assert seen.names("good") >= OF_ALL | TOGETHER
    assert seen.names("warning") <= OF_THE_MACHINE
    assert seen.of("python", "good").endswith("on all ranks\n")
    content = json.loads((tmp_path / "doctor.json").read_text())
    assert (content["kind"], content["world_size"], content["counts"]["bad"]) == (
        "distcnn.doctor",
        2,
        0,
    )
    assert [(each["state"], each["name"]) for each in content["findings"]] == [
        line[:2] for line in seen.lines
    ]
    assert content["allreduce"][0]["bytes"] == 8
    assert all(row["seconds"] > 0 for row in content["allreduce"])
    assert len(content["gflop_per_second"]) == 2
    assert len(content["clock_offset_seconds"]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["doctor.json"]


@pytest.mark.slow
def test_flags(mpirun: Launcher, serial: Launcher) -> None:
    done = mpirun.run(2, "-m", "distcnn.doctor", "--nonsense")
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.count("distcnn.doctor: error: unknown flag --nonsense") == 1
    for value in ("0", "many", "-1"):
        done = serial.run(1, "-m", "distcnn.doctor", f"--threads-per-rank={value}")
        assert done.returncode == 2
        assert f"--threads-per-rank: {value!r} must be a number, at least 1, or auto" in done.stderr
    done = mpirun.run(2, "-m", "distcnn.doctor", "--help")
    assert done.returncode == 0
    assert done.stdout.count("usage: python -m distcnn.doctor") == 1


def test_a_file_that_cannot_be_written(serial: Launcher, tmp_path: Path) -> None:
    seen = doctor(serial, 1, "--json", str(tmp_path / "nowhere" / "doctor.json"))
    seen.only_bad("json")
    assert "No such file or directory" in seen.of("json", "bad")


def test_a_standard_output_that_takes_nothing(serial: Launcher) -> None:
    with Path("/dev/full").open("wb") as full, running(serial, 1, *DOCTOR, stdout=full) as run:
        ended = run.end(30)
    assert ended.code == 0
    assert ended.stderr.count("\n") == 1
    assert "standard output cannot be written" in ended.stderr
