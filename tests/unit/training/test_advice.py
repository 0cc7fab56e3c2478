"""Flags that a user may not have meant lead to one line that names them; impossible ones are
refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.training.advice import require_enough_examples, warnings_of
from distcnn.training.schedule import RunSchedule


def warned(train_examples: int, **flags: Any) -> list[str]:
    lines = list(warnings_of(RunSchedule(Config(**flags), train_examples)))
    assert all("\n" not in line for line in lines)
    return lines


@pytest.mark.parametrize(
    "flags", [{}, {"max_steps": 40}, {"target_accuracy": 0.99, "epochs": 6, "cycle_epochs": 1}]
)
def test_nothing_is_said_of_the_defaults_on_mnist(flags: dict[str, Any]) -> None:
    assert warned(60_000, **flags) == []


@pytest.mark.parametrize(
    ("examples", "flags"),
    [(96, {}), (1000, {}), (60_000, {"microbatch_size": 1024}), (60_000, {"num_shards": 3000})],
)
def test_a_run_of_few_steps_is_advised_how_to_take_more(
    examples: int, flags: dict[str, Any]
) -> None:
    line, *_ = warned(examples, **flags)
    assert "--epochs" in line
    assert "--microbatch-size" in line


def test_few_steps_are_enough_to_fine_tune() -> None:
    assert warned(96, microbatch_size=4, initial_weights="runs/first") == []


def test_a_microbatch_of_one_is_not_advised_to_be_smaller() -> None:
    (line,) = warned(96, microbatch_size=1)
    assert "--num-shards" in line
    assert "--microbatch-size" not in line


def test_more_epochs_as_advised_are_enough() -> None:
    assert "134 make" in warned(300)[0]
    assert warned(300, epochs=134) == []


@pytest.mark.parametrize(
    ("examples", "flags", "advised"),
    [
        (60_000, {"microbatch_size": 8192}, 7500),
        (96, {"epochs": 400}, 12),
        (8 * 17, {"epochs": 400}, 9),
        (1600, {"num_shards": 1600}, 1),
    ],
)
def test_computing_that_goes_into_padding_is_reported_with_a_size_that_avoids_it(
    examples: int, flags: dict[str, Any], advised: int
) -> None:
    line = warned(examples, **flags)[-1]
    assert "padding" in line
    assert f"--microbatch-size {advised} " in line
    assert not [
        each
        for each in warned(examples, **{**flags, "microbatch_size": advised})
        if "padding" in each
    ]


def test_a_ragged_end_is_not_worth_a_word() -> None:
    assert warned(8 * (16 * 20 + 1), epochs=10) == []


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        ({"optimizer": "adamw"}, "--weight-decay"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "--momentum"),
        ({"optimizer": "adam", "momentum": 0.5}, "--momentum"),
        ({"optimizer": "adamw", "momentum": 0.5, "weight_decay": 0.1}, "--momentum"),
        ({"reduction": "fast", "gradient_limit": 2.0}, "--gradient-limit"),
        ({"trace_from": 3}, "--trace-from"),
        ({"patience": 2}, "--patience"),
        ({"patience": 1, "epochs": 9, "eval_every_epochs": 0}, "--patience"),
    ],
)
def test_flags_that_change_nothing_are_named(flags: dict[str, Any], flag: str) -> None:
    (line,) = warned(60_000, **flags)
    assert flag in line


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "sgd", "momentum": 0.0},
        {"trace": 2, "trace_from": 3},
        {"patience": 1},
    ],
)
def test_flags_that_mean_something_are_not(flags: dict[str, Any]) -> None:
    assert warned(60_000, **flags) == []


def test_more_shards_than_examples_are_refused() -> None:
    require_enough_examples(Config(num_shards=96), 96)
    with pytest.raises(InputError, match=r"--num-shards is 97, .* 96 examples"):
        require_enough_examples(Config(num_shards=97), 96)
