"""Targets and learning-rate cycles: defaults, schedules and old checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.config import Config
from distcnn.config_parsing import TARGET_DEFAULTS, parse_request
from distcnn.distributed import Totals
from distcnn.errors import InputError
from distcnn.training.schedule import RunSchedule
from distcnn.training.state import Meter, State


def test_checkpoints_from_before_there_were_targets_can_be_read() -> None:
    values = State(step=3, whole=Meter(seconds=2.0), safety_seconds=0.5).to_json()
    del values["run_seconds"]
    assert State.from_json(values).run_seconds == 2.5


@pytest.mark.parametrize(
    ("target", "correct", "test_step", "reaches"),
    [
        (0.99, 9900, 8, True),
        (0.99, 9899, 8, False),
        (0.99, 9900, 7, False),
        (0.0, 9900, 8, False),
        (1.0, 10000, 8, True),
        (1.0, 9999, 8, False),
    ],
)
def test_only_the_state_that_was_tested_reaches_a_target(
    target: float, correct: int, test_step: int, reaches: bool
) -> None:
    state = State(step=8, test=Totals(1.0, correct, 10000, 0), test_step=test_step)
    assert state.reaches(target) == reaches
    assert not State().reaches(target)


def test_the_schedule_begins_again_in_each_cycle() -> None:
    whole = RunSchedule(Config(epochs=2, microbatch_size=8, warmup_steps=2), 203)
    cycles = RunSchedule(Config(epochs=5, microbatch_size=8, warmup_steps=2, cycle_epochs=2), 203)
    assert (whole.total_steps, cycles.total_steps, cycles.warmup_steps) == (8, 20, 2)
    rates = [whole.learning_rate(step) for step in range(8)]
    assert [cycles.learning_rate(step) for step in range(20)] == [*rates, *rates, *rates[:4]]


def test_a_target_brings_its_own_defaults_and_flags_win(tmp_path: Path) -> None:
    assert parse_request(["--target-accuracy", "0.9"]).config == Config(
        target_accuracy=0.9, **TARGET_DEFAULTS
    )
    assert parse_request(["--target-accuracy", "0.9", "--epochs", "3"]).config == Config(
        target_accuracy=0.9, **{**TARGET_DEFAULTS, "epochs": 3}
    )
    assert parse_request(["--target-accuracy", "0"]).config == Config()
    (tmp_path / "c.toml").write_text("target_accuracy = 0.9\ncycle_epochs = 0\n")
    assert parse_request(["--config", str(tmp_path / "c.toml")]).config == Config(
        target_accuracy=0.9, **{**TARGET_DEFAULTS, "cycle_epochs": 0}
    )


def test_a_negative_cycle_is_refused() -> None:
    with pytest.raises(InputError, match="--cycle-epochs is -1: it must be 0 or more"):
        Config(cycle_epochs=-1)
