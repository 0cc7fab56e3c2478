"""A measurement in this process is complete, consistent, and read as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distcnn.benchmark.__main__ import parse
from distcnn.benchmark.measure import Stepper, measure
from distcnn.benchmark.measurement import read_measurement, write_measurement
from distcnn.benchmark.output import table
from distcnn.profiling.step_times import StepTimes
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import prepare


def test_it_takes_the_steps_of_training_and_adds_up(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    plain, run = (prepare(image_set(), model="tutorial", num_shards=3) for _ in range(2))
    measurement = measure(run, steps=3, turns=2)
    stepper = Stepper(plain)
    for _ in range(3 + 2 * (3 + 2)):  # to warm up, timed, with a listener
        stepper.take()
    assert run.parameters.values.tobytes() == plain.parameters.values.tobytes()
    rows = measurement.rows()
    assert sum(sum(seconds.values()) for seconds in rows.values()) == pytest.approx(
        measurement.split.seconds
    )
    assert measurement.gemm_bound_fraction > 0
    assert len(measurement.images_per_second_turns) == 2
    write_measurement(tmp_path / "a.json", measurement)
    assert read_measurement(tmp_path / "a.json") == measurement
    text = "\n".join(table(measurement))
    assert all(word in text for word in ("images/s", "exact sum", "im2col bound", "peak memory"))
    parts = {"rest": 1.0, "conv1 forward": 2.0, "update": 3.0, "conv1 backward": 4.0, "loss": 5.0}
    by_hand = replace(measurement, split_ranks=[StepTimes(15.0, parts, 0.0)])
    assert list(by_hand.rows().items()) == [
        ("conv1", {"forward": 2.0, "backward": 4.0}),
        ("loss", {"": 5.0}),
        ("update", {"": 3.0}),
        ("rest (Python)", {"": 1.0}),
    ]


def test_the_default_batch_is_256_and_flags_or_a_file_change_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("microbatch_size = 7\n")
    assert parse([])[1].global_batch_size == 256
    splits = {
        ((), 1): (2, 128),
        ((), 3): (8, 32),  # four shards would leave two ranks one each, and one two
        ((), 4): (4, 64),
        ((), 16): (8, 32),
        (("--num-shards", "16"), 2): (16, 16),
        (("--num-shards", "16", "--microbatch-size", "5"), 2): (16, 5),
        (("--microbatch-size", "5"), 2): (8, 5),
    }
    for (flags, ranks), split in splits.items():
        _, config = parse(flags, ranks)
        assert (config.num_shards, config.microbatch_size) == split
    file = str(tmp_path / "run.toml")
    assert parse(["--config", file, "--turns", "3"])[1].microbatch_size == 7
