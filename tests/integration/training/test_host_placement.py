"""Placement of ranks: threads, hosts, and files that some ranks cannot see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcnn.train import describe_blas, describe_hosts
from tests.conftest import Launcher, MakeImageSet, as_flags, write_image_set
from tests.support.training_fixtures import receipt


def test_hosts_are_described_by_their_ranks() -> None:
    assert describe_hosts(["a"] * 4) == ""
    assert describe_hosts(["a", "a", "b", "b"]) == " on 2 hosts (a: 0-1; b: 2-3)"
    assert describe_hosts(["a", "b", "a", "b"]) == " on 2 hosts (a: 0, 2; b: 1, 3)"
    assert describe_hosts(list("abcdef")) == " on 6 hosts (a: 0; b: 1; c: 2; d: 3; ...)"


def test_kernels_are_described_by_their_ranks() -> None:
    assert describe_blas(["a"] * 4) == "a"
    assert describe_blas(["a", "b", "b"]) == "a on rank 0, b on ranks 1-2"
    assert describe_blas(list("abcdea")).startswith("a on ranks 0, 5, b on rank 1, c on")


def test_the_threads_of_a_portable_run_are_said_plainly(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), output=tmp_path / "run", epochs=1, arithmetic="portable")
    done = serial.run(1, "-m", "distcnn.train", *flags, "--threads-per-rank", "16")
    assert done.returncode == 0
    assert "8 shards at a time, 2 BLAS threads for each shard" in done.stdout


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_number_of_threads_is_refused(threads: str, serial: Launcher) -> None:
    done = serial.run(1, "-m", "distcnn.train", f"--threads-per-rank={threads}")
    assert done.returncode == 2
    what = f"is {threads}: it must be at least 1, or auto" if threads else "is empty"
    assert f"--threads-per-rank {what}" in done.stderr


def test_the_number_that_auto_chose_is_the_runs(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run"), "--epochs", "1"]
    alone = Launcher("one core", "taskset", any_mpi.mpirun)
    done = alone.run(
        2, "-c", "0", any_mpi.python, "-m", "distcnn.train", *flags, "--threads-per-rank", "auto"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.count(
            "notice: 1 BLAS thread a rank (--threads-per-rank auto): the bits depend on this number"
        )
        == 1
    )
    assert done.stdout.count("oversubscribed: 2 ranks on 1 core") == 1
    assert 'threads_per_rank = "1"' in (tmp_path / "run" / "config.toml").read_text()


def test_threads_are_given_and_recorded(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text("threads_per_rank = 2\nepochs = 1\n")
    flags = as_flags(data=image_set(), output=tmp_path / "run", config=tmp_path / "run.toml")
    done = serial.run(1, "-m", "distcnn.train", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 BLAS threads each" in done.stdout
    assert receipt(tmp_path / "run")[0]["software"]["blas_threads"] == "2"
    refused = serial.run(
        1, "-m", "distcnn.train", *as_flags(resume=tmp_path / "run", epochs=2, threads_per_rank=1)
    )
    assert refused.returncode == 2
    assert "--threads-per-rank" in refused.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_a_file_that_one_rank_does_not_see_is_reported_with_the_remedy(
    any_mpi: Launcher, tmp_path: Path
) -> None:
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
    write_image_set(tmp_path / "0" / "set.h5")
    write_image_set(tmp_path / "1" / "set.h5")
    script = (
        f"cd {tmp_path}/${{PMI_RANK:-$OMPI_COMM_WORLD_RANK}} && exec {any_mpi.python} -m"
        " distcnn.train --data set.h5"
    )
    done = Launcher("a shell", "sh", any_mpi.mpirun).run(3, "-c", script)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stderr
    assert "--data: rank 0 on host" in errors[0]
    assert "sees set.h5, rank 2 on host" in errors[0]
    assert "put it on a file system that all hosts share" in errors[0]


def test_a_file_that_no_rank_sees_is_reported_by_the_reader(
    serial: Launcher, tmp_path: Path
) -> None:
    done = serial.run(1, "-m", "distcnn.train", "--data", str(tmp_path / "nothing.h5"))
    assert (done.returncode, "no such file" in done.stderr) == (2, True)
