"""One receipt hash for a portable run on one rank, and for one that was killed and moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SERIAL, MakeImageSet, as_flags, launcher_of
from tests.support.training_fixtures import train, train_with_stops

SAME = "receipt.jsonl", "metrics.jsonl", "metrics.csv", "weights.h5", "weights-best.h5"
FLAGS = as_flags(
    model="stopping:network",
    arithmetic="portable",
    epochs=3,
    microbatch_size=8,
    log_every=3,
    check_every=2,
    checkpoint_every=3,
)
"""4 steps an epoch; on one rank 8 calls of forward a step, and 10 in each test."""


@pytest.mark.mpi
def test_ranks_kills_and_threads_leave_the_receipt_as_it_is(
    image_set: MakeImageSet, stopping: str, tmp_path: Path
) -> None:
    """It is killed on three ranks and stopped on one; with other flags that change no bit."""
    flags = ["--data", str(image_set()), *FLAGS]
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = train(SERIAL, 1, *flags, "--output", str(whole), PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    flags += as_flags(output=run, threads_per_rank=2, overlap="on", keep=2)
    ranks, signals = (3, 1, 2), "SIGKILL"
    train_with_stops(flags, run, signals, ranks=ranks, calls=(17, 45), stopping=stopping)
    for name in SAME:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((each / "result.json").read_text()) for each in (whole, run)]
    assert results[0]["receipt_sha256"] == results[1]["receipt_sha256"]
    assert f"\nreceipt {results[0]['receipt_sha256']}\n" in done.stdout
    lines = (run / "environment.jsonl").read_text().splitlines()
    assert [json.loads(line)["world_size"] for line in lines] == list(ranks)
    verified = launcher_of(2).run(
        2, "-m", "distcnn.verify", str(run), "--trust-model", PYTHONPATH=stopping
    )
    assert verified.returncode == 0
    assert "identical: steps 0 to 12 (" in verified.stdout
    assert "warning" not in verified.stdout + verified.stderr
