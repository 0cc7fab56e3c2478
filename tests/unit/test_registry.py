"""Names and objects: distcnn's, the user's own with arguments, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distcnn import optim, train
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.registry import find_loss, find_optimizer, find_schedule, optimizer_name, schedule_name
from distcnn.training.setup import too_many_ranks
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import result

HERE = __name__


@dataclass(frozen=True)
class Lion(optim.Optimizer):
    """A user's own optimizer, with an argument."""

    beta: float = 0.5

    def update(
        self, values: Any, grads: Any, state: Mapping[str, Any], rate: float, *_: Any
    ) -> None:
        values -= grads * values.dtype.type(rate * self.beta)


def half(progress: float) -> float:
    """A user's own schedule."""
    return 0.5


class Late(optim.Schedule):
    """A user's own schedule, as a class."""

    def factor(self, progress: float) -> float:
        return 1 - progress**3


@pytest.mark.parametrize(
    "optimizer",
    [
        *(optim.SGD(momentum=0.9, nesterov=True), optim.SGD(weight_decay=0.1), optim.Adam()),
        *(
            optim.AdamW(weight_decay=0.1),
            optim.Adam(beta1=0.8),
            Lion(learning_rate=1),
            Lion(beta=1),
        ),
    ],
    ids=repr,
)
def test_an_optimizer_is_found_by_its_own_name(optimizer: optim.Optimizer) -> None:
    plain = [getattr(optimizer, name, 0.0) for name in ("learning_rate", "momentum")]
    decay = getattr(optimizer, "weight_decay", 0.0)
    name = optimizer_name(optimizer)
    assert find_optimizer(name, *plain, decay) == optimizer
    assert Config(optimizer=name).optimizer == name


def test_schedules_are_found_by_name() -> None:
    assert find_schedule("cosine", 10) == optim.Cosine(10)
    assert find_schedule(f"{HERE}:half", 10) == optim.OwnSchedule(10, half)
    assert find_schedule(f"{HERE}:Late", 10) == Late(10)


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (find_loss, "mse", "choose one of cross-entropy"),
        (find_loss, "no_such_module:loss", "cannot be imported"),
        (find_loss, f"{HERE}:HERE", "is not a function"),
        (lambda name: find_schedule(name, 0), "steps", "choose one of cosine"),
        (lambda name: find_optimizer(name, 1, 0, 0), f"{HERE}:half", "cannot be made"),
        (lambda name: find_optimizer(name, 1, 0, 0), f"{HERE}:Lion(beta)", "key=value"),
        (lambda name: find_optimizer(name, 1, 0, 0), f"{HERE}:Lion(gamma=1)", "gamma"),
        (lambda name: find_optimizer(name, 1, 0, 0), "adam(beta1=2)", "beta1 is 2"),
        (lambda name: find_optimizer(name, 1, 0, 0), "adam(beta1=open('x'))", "key=value"),
    ],
)
def test_what_does_not_exist_is_refused(find: Any, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find(name)


def test_own_parts_on_the_command_line(image_set: MakeImageSet, tmp_path: Path) -> None:
    own = ["--optimizer", f"{HERE}:Lion(beta=0.25)", "--schedule", f"{HERE}:half"]
    flags = ["--model", "mlp", "--data", str(image_set()), "--max-steps", "3", *own]
    assert train.main([*flags, "--output", str(tmp_path / "run")]) == 0
    assert HERE in (tmp_path / "run" / "receipt.jsonl").read_text()  # the source is recorded
    resume = ["--resume", str(tmp_path / "run"), "--max-steps", "4"]
    assert train.main(resume) == 2  # code that only the run names is not imported
    assert train.main([*resume, *own]) == 0
    assert result(tmp_path / "run")["steps"] == 4


@pytest.mark.parametrize(
    ("shards", "size", "ranks", "remedy"),
    [
        (8, 16, 16, "--num-shards 16 --microbatch-size 8"),
        (8, 16, 9, "--num-shards 16 --microbatch-size 8"),
        (2, 1, 3, "--num-shards 3"),
    ],
)
def test_more_ranks_than_shards_keeps_the_global_batch(
    shards: int, size: int, ranks: int, remedy: str
) -> None:
    text = too_many_ranks(Config(num_shards=shards, microbatch_size=size), ranks)
    assert f"{ranks} ranks cannot share {shards} shards" in text
    assert remedy in text


@dataclass(frozen=True)
class Power(optim.Schedule):
    """A user's own schedule, with an argument."""

    power: float = 1.0

    def factor(self, progress: float) -> float:
        return float((1 - progress) ** self.power)


@pytest.mark.parametrize("schedule", [Power(3), Power(3, 2.0), optim.Linear(3)])
def test_a_schedule_is_made_again_from_its_name(schedule: optim.Schedule) -> None:
    assert find_schedule(schedule_name(schedule), 3) == schedule
