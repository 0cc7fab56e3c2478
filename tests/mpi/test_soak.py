"""Kills at random moments and resumes on other numbers of ranks give the same bits: some rounds of
``python -m benchmarks.soak``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, clean_environment, mpi_launcher

ROUNDS, MOST_SECONDS = 6, 300


@pytest.mark.mpi
@pytest.mark.slow
def test_killed_and_resumed_runs_come_to_the_same_bits() -> None:
    mpi_launcher()  # skips where there is none
    command = [sys.executable, "-m", "benchmarks.soak", "--rounds", str(ROUNDS), "--keep-going"]
    openmpi = {key: value for key, value in os.environ.items() if key == "DISTCNN_TEST_OPENMPI"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment() | openmpi,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
