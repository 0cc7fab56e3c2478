"""A signal during an evaluation: all ranks stop at the same block, and the resumed run has the bits
and lines of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from distcnn.training.evaluation import Evaluation, EvaluationStopped
from tests.conftest import SERIAL, MakeImageSet, as_flags, launcher_of
from tests.support.training_fixtures import assert_same_end, metrics, prepare, receipt, train

STEPS, SHARDS, BLOCKS = 13, 2, 50
"""Of an epoch; calls of forward on one rank in a step, and in a test."""
QUICK = as_flags(
    model="stopping:network", epochs=2, num_shards=SHARDS, microbatch_size=8, log_every=5
)
EXIT_STOPPED = 85


@pytest.fixture(scope="module")
def data(image_set: MakeImageSet) -> Path:
    return image_set(test=8 * BLOCKS)


@pytest.fixture(scope="module")
def whole(data: Path, stopping: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    SERIAL.train(1, path, "--data", str(data), *QUICK, PYTHONPATH=stopping)
    return path


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [(1, 2, 1), (2, 1, 2)])
def test_the_tests_of_both_epochs_are_stopped_and_the_run_ends_the_same(
    ranks: tuple[int, ...], data: Path, whole: Path, stopping: str, tmp_path: Path
) -> None:
    run, start = tmp_path / "run", ["--data", str(data), *QUICK, "--output", str(tmp_path / "run")]
    for part, world_size in enumerate(ranks):
        blocks, calls = BLOCKS // world_size, SHARDS // world_size * STEPS
        # The first part is stopped early in the test of epoch 1. The second one repeats that test,
        # and is stopped in the test of epoch 2.
        stop = (
            {
                "STOP_SIGNAL": "SIGTERM",
                "STOP_AT_CALL": str([calls + 10, blocks + calls + 10, 0][part]),
            }
            if part < 2
            else {}
        )
        launcher = launcher_of(world_size)
        done = train(
            launcher,
            world_size,
            *(start if not part else ["--resume", str(run)]),
            PYTHONPATH=stopping,
            **stop,
        )
        if stop:
            assert done.returncode == EXIT_STOPPED, done.stderr
            assert (
                f"stopped by SIGTERM after step {STEPS * (part + 1)} of {2 * STEPS};"
                " checkpoint saved" in done.stderr
            )
            for lines in (metrics(run), receipt(run)):
                assert sum(line["kind"] == "epoch" for line in lines) == part
            assert not (run / "result.json").exists()
    assert done.returncode == 0, done.stderr
    assert_same_end(run, whole, begun_on=ranks[0])


def test_a_stop_comes_within_the_time_of_a_step(data: Path) -> None:
    plain = prepare(data, num_shards=SHARDS).evaluation
    whole = plain()
    tested: list[int] = []

    class Counted(Evaluation):
        def _add_block(self, stats: object, step: int) -> np.ndarray:
            tested.append(step)
            return super()._add_block(stats, step)  # type: ignore[arg-type]

    def stop_request() -> str | None:
        return "SIGTERM" if len(tested) >= wanted else None

    fields = {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(plain) if field.init
    }
    evaluation = Counted(**{**fields, "stop_request": stop_request})
    for wanted in (0, 1, 20, BLOCKS - 1):
        tested.clear()
        if wanted < BLOCKS - 1:  # a forward pass takes about a third of a shard's part of a step
            with pytest.raises(EvaluationStopped):
                evaluation()
            assert wanted <= len(tested) <= wanted + 3 * SHARDS
        else:
            assert evaluation() == whole
    assert plain() == whole
