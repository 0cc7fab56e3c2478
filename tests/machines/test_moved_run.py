"""A portable run that moves from one kind of machine to another: its records do not show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SERIAL, MakeImageSet, as_flags, launcher_of
from tests.machines.environments import KERNELS
from tests.machines.test_machines import start_of
from tests.support.running import running
from tests.support.training_fixtures import train

SAME = "receipt.jsonl", "metrics.jsonl", "metrics.csv", "weights.h5", "weights-best.h5"
FLAGS = as_flags(
    **{"arithmetic": "portable", "model": "lenet", "epochs": 6, "microbatch_size": 8},
    **{"log_every": 3, "check_every": 2, "checkpoint_every": 3, "keep": 20},
)
"""4 steps an epoch."""
KILLED_AT = 8


@pytest.mark.slow
@pytest.mark.mpi
def test_a_run_moves_between_kernels(image_set: MakeImageSet, tmp_path: Path) -> None:
    """Begun on 2 ranks, killed, resumed on 3, and verified in one process, each with another
    kernel of the BLAS."""
    prescott, sandybridge, haswell, *_ = (start_of(each).variables for each in KERNELS)
    flags = ["--data", str(image_set()), *FLAGS]
    whole, run = tmp_path / "whole", tmp_path / "run"
    expected = SERIAL.train(1, whole, *flags, **haswell)

    begun = ["-m", "distcnn.train", *flags, *as_flags(output=run, threads_per_rank=2)]
    with running(launcher_of(2), 2, *begun, **prescott) as first:
        first.wait_for_step(KILLED_AT)
        first.kill()
    assert not (run / "result.json").exists()
    resumed = train(launcher_of(3), 3, "--resume", str(run), "--threads-per-rank", "1", **haswell)
    assert resumed.returncode == 0, resumed.stderr

    for name in SAME:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    result = json.loads((run / "result.json").read_text())
    assert result["receipt_sha256"] == expected["receipt_sha256"]
    assert result["params_sha256"] == expected["params_sha256"]
    starts = [json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines()]
    assert [start["world_size"] for start in starts] == [2, 3]
    kernels = [start["software"]["blas"].split()[-1] for start in starts]
    assert kernels[0] in KERNELS[0].effect["kernel"]
    assert kernels[1] == "Haswell"

    verified = SERIAL.run(1, "-m", "distcnn.verify", str(run), **sandybridge)
    assert verified.returncode == 0, verified.stderr
    assert "identical: steps 0 to 24 (" in verified.stdout


@pytest.mark.slow
def test_a_native_run_does_not(image_set: MakeImageSet, tmp_path: Path) -> None:
    """The same verification finds a run of native arithmetic to be different."""
    first, second, *_ = (start_of(each).variables for each in KERNELS)
    flags = as_flags(data=image_set(), epochs=2, microbatch_size=8)
    SERIAL.train(1, tmp_path / "run", *flags, **first)
    verified = SERIAL.run(1, "-m", "distcnn.verify", str(tmp_path / "run"), **second)
    assert verified.returncode != 0
    assert "identical" not in verified.stdout
