"""A network that does not learn is reported once and at the end, with the gradients that are zero;
one that learns is not.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from distcnn.models import MODELS
from distcnn.nn import Conv2d, Dense, Flatten, MaxPool2d, ReLU, Sequential, he_normal, zeros
from distcnn.nn.losses import GUESSING
from distcnn.training.advice import sign_of_no_learning
from distcnn.training.debug import check_network
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import prepare, train_in_process


def buried(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> np.ndarray:
    return np.full(shape, -1000.0)


OWN_MODELS = {
    "dead": lambda shape, classes: Sequential(
        [Conv2d(4, 3, bias_initialiser=buried), MaxPool2d(2), ReLU(), Flatten(), Dense(classes)]
    ),
    "zero": lambda shape, classes: Sequential(
        [
            Flatten(),
            Dense(8, weight_initialiser=zeros),
            ReLU(),
            Dense(classes, weight_initialiser=zeros),
        ]
    ),
    "alive": lambda shape, classes: Sequential(
        [Flatten(), Dense(32, weight_initialiser=he_normal), ReLU(), Dense(classes)]
    ),
}


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in OWN_MODELS.items():
        monkeypatch.setitem(MODELS, name, model)


def warnings_of(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("warning: after epoch")]


@pytest.mark.parametrize(
    ("model", "named", "not_named"),
    [
        ("dead", ["conv1.weight", "conv1.bias", "dense1.weight"], "dense1.bias"),
        ("zero", ["dense1.weight", "dense2.weight"], "dense2.bias"),
    ],
)
@pytest.mark.parametrize(
    "flags", [{}, {"reduction": "fast"}, {"num_shards": 2}], ids=["exact", "fast", "kept"]
)
def test_a_network_that_learns_nothing_is_named_with_its_zero_gradients(
    model: str, named: list[str], not_named: str, flags: dict[str, object], image_set: MakeImageSet
) -> None:
    said = train_in_process(
        image_set(), model=model, epochs=4, microbatch_size=8, warmup_steps=0, **flags
    )
    found = warnings_of(said)
    assert [line.split(",")[0] for line in found] == [
        "warning: after epoch 1",
        "warning: after epoch 4",
    ]
    for line in found:
        assert all(name in line for name in named)
        assert not_named not in line
        assert "\n" not in line


def test_a_network_that_learns_is_not(image_set: MakeImageSet) -> None:
    assert (
        warnings_of(
            train_in_process(
                image_set(), model="alive", epochs=6, microbatch_size=8, warmup_steps=0
            )
        )
        == []
    )


def test_a_loss_that_stays_at_guessing_is_named_though_the_answers_differ(
    image_set: MakeImageSet,
) -> None:
    found = warnings_of(
        train_in_process(
            image_set(), model="alive", epochs=3, microbatch_size=8, learning_rate=1e-9
        )
    )
    assert len(found) == 2
    assert "guessing, 2.3026" in found[0]
    assert "--learning-rate" in found[0]


def test_the_zero_gradients_of_frozen_layers_are_no_sign(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = {"model": "alive", "microbatch_size": 8, "learning_rate": 1e-9}
    weights = prepare(image_set(), **flags).parameters.named()
    np.savez(tmp_path / "weights.npz", **weights)
    start = {"initial_weights": str(tmp_path / "weights.npz"), "freeze": "dense1"}
    [_, last] = warnings_of(train_in_process(image_set(), epochs=3, **flags, **start))
    assert "zero everywhere" not in last


def test_no_sign_during_the_warm_up(image_set: MakeImageSet) -> None:
    flags = {"model": "alive", "microbatch_size": 8, "learning_rate": 1e-9, "epochs": 8}
    found = warnings_of(train_in_process(image_set(), warmup_steps=1000, **flags))
    assert [line.split(",")[0] for line in found] == [
        "warning: after epoch 3",  # the warm-up was cut to a quarter of the run
        "warning: after epoch 8",
    ]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_losses_of_guessing(classes: int) -> None:
    from distcnn.nn import LOSSES

    for name, loss in LOSSES.items():
        same = (
            np.zeros((classes, 1))
            if name == "cross-entropy"
            else np.full((classes, 1), 1 / classes)
        )
        assert loss(same, np.array([1]), np.ones(1))[0] == pytest.approx(
            GUESSING[name](classes), rel=1e-12
        )


def test_no_sign_before_anything_can_be_seen() -> None:
    first, spread = math.log(10), np.array([40, 60])
    sign = partial(sign_of_no_learning, "cross-entropy")
    assert sign(first, spread, 10, is_warmed_up=False) is None
    assert sign(0.98 * first, None, 10, is_warmed_up=True) is None
    assert sign(0.1, np.array([1, 0]), 2, is_warmed_up=True) is None, "one test image"
    assert sign(first, None, 10, is_warmed_up=True) is not None


def test_debug_names_the_gradients_that_are_zero_at_the_first_weights(
    image_set: MakeImageSet,
) -> None:
    said: list[str] = []
    check_network(prepare(image_set(), model="zero"), said.append)
    (found,) = [line for line in said if line.startswith("warning: ")]
    assert "dense1.weight" in found
    assert "dense2.bias" not in found
    said.clear()
    check_network(prepare(image_set(), model="alive"), said.append)
    assert not [line for line in said if line.startswith("warning: ")]
