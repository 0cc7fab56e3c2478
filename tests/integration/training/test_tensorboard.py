"""After a kill and a resume, event files and the table are those of an uninterrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SERIAL, MakeImageSet, as_flags
from tests.support.event_files import of_metrics, scalars
from tests.support.training_fixtures import assert_same_end, train_with_stops

# 4 steps an epoch; on one rank 8 calls of forward a step, and 10 in each test.
QUICK = as_flags(model="stopping:network", epochs=3, microbatch_size=8, log_every=1)
QUICK += [*as_flags(checkpoint_every=3), "--tensorboard"]
SPEEDS = {"step/images_per_second", "epoch/images_per_second"}


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("signal", "ranks", "calls"),
    [
        # Killed in step 6, after the checkpoint of step 4; in the second epoch's test.
        ("SIGKILL", (1, 2), (5 * 8 + 10 + 4,)),
        ("SIGUSR1", (1, 1), (8 * 8 + 10 + 3,)),
    ],
)
def test_a_killed_run_that_is_resumed_shows_each_step_once(
    signal: str,
    ranks: tuple[int, ...],
    calls: tuple[int, ...],
    image_set: MakeImageSet,
    stopping: str,
    tmp_path: Path,
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    flags = ["--data", str(image_set()), *QUICK]
    SERIAL.train(1, whole, *flags, PYTHONPATH=stopping)
    train_with_stops([*flags, "--output", str(run)], run, signal, ranks, calls, stopping)
    assert_same_end(run, whole)  # metrics.csv, too
    assert scalars(run) == of_metrics(run)
    killed, expected = scalars(run), scalars(whole)
    assert killed.keys() == expected.keys()
    for tag in expected.keys() - SPEEDS:
        assert killed[tag] == expected[tag], tag
    assert [step for step, _ in killed["step/loss"]] == list(range(1, 13))
