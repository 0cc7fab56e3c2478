"""The command: what it prints and writes, in one process and on ranks, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Launcher, MakeImageSet

KEYS = {
    *("images_per_second", "gemm_bound_fraction", "exact_sum_fraction", "communication_fraction"),
    *("peak_memory_bytes", "machine", "flags", "split_ranks", "world_size"),
}
COMMAND = ["-m", "distcnn.benchmark"]
SHORT = ["--model", "tutorial", "--microbatch-size", "4", "--steps", "2", "--turns", "2"]


def check(results: dict[str, Any], ranks: int) -> None:
    assert set(results) >= KEYS
    assert results["world_size"] == ranks
    assert len(results["images_per_second_turns"]) == 2
    peaks = results["peak_memory_bytes_ranks"]
    assert len(peaks) == len(results["split_ranks"]) == ranks
    assert results["peak_memory_bytes"] == max(peaks)
    assert results["flags"]["microbatch_size"] == 4
    assert results["global_batch_size"] == 32
    assert {"processor", "cores", "numpy", "blas", "python", "mpi"} <= set(results["machine"])
    assert results["split_images"] == 32 // ranks
    for split in results["split_ranks"]:
        assert sum(split["parts"].values()) == pytest.approx(split["seconds"])
    assert results["gemm_bound_fraction"] > 0
    assert 0 <= results["communication_fraction"] < 1


def test_one_process(serial: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    done = serial.run(
        1,
        *COMMAND,
        "--data",
        str(image_set()),
        *SHORT,
        "--json",
        str(tmp_path / "b.json"),
        "--picture",
        str(tmp_path / "b.png"),
    )
    assert done.returncode == 0, done.stderr
    check(json.loads((tmp_path / "b.json").read_text()), 1)
    for word in ("images/s", "exact sum", "update", "rest (Python)", "im2col", "evaluation"):
        assert word in done.stdout
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("runs"))
    both = serial.run(
        1,
        *COMMAND,
        "--draw",
        *[str(tmp_path / "b.json")] * 2,
        "--picture",
        str(tmp_path / "two.png"),
    )
    assert both.returncode == 0, both.stderr
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_on_ranks(any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path, overlap: str) -> None:
    flags = [
        "--data",
        str(image_set()),
        *SHORT,
        "--overlap",
        overlap,
        "--json",
        str(tmp_path / "b.json"),
    ]
    done = any_mpi.run(2, *COMMAND, *flags)
    assert done.returncode == 0, done.stderr
    check(json.loads((tmp_path / "b.json").read_text()), 2)
    assert done.stdout.count("images/s: ") == 1, "more than one rank printed"


REFUSED = {
    "--steps 0": "--steps is 0: it must be at least 1",
    "--turns x": "argument --turns: invalid int value: 'x'",
    "--resume runs/x": "unknown flag --resume",
    "--peer torch": "unknown flag --peer: python benchmarks/pytorch_ddp.py",
    "--microbatch-size 0": "--microbatch-size is 0",
    "--draw x.json": "needs the name of the picture",
    "--draw no.json --picture x.png": "no.json cannot be read (No such file",
    "--json nowhere/x.json": "--json: no such folder: nowhere",
    "--data no.h5": "no such file: no.h5",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(serial: Launcher, flags: str) -> None:
    done = serial.run(1, *COMMAND, *flags.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("distcnn.benchmark: error: ")
    assert REFUSED[flags] in line


def test_bad_input_on_ranks_is_one_line(any_mpi: Launcher) -> None:
    done = any_mpi.run(2, *COMMAND, "--steps", "0")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "distcnn" in line] == [
        "distcnn.benchmark: error: --steps is 0: it must be at least 1"
    ]


def test_help_names_its_flags(serial: Launcher) -> None:
    done = serial.run(1, *COMMAND, "--help")
    assert done.returncode == 0
    assert all(
        flag in done.stdout
        for flag in ("--steps", "--turns", "--json", "--picture", "--draw", "--model")
    )


def test_training_does_not_load_it(serial: Launcher) -> None:
    program = (
        "import sys, distcnn.train; print([name for name in sys.modules if"
        " name.startswith(('distcnn.benchmark', 'matplotlib'))])"
    )
    assert serial.run(1, "-c", program).stdout.strip() == "[]"
