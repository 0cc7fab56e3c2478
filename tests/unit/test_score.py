"""Scores: counts by hand, intervals of scipy, and the same result in any parts and order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest

from distcnn import nn
from distcnn.errors import ArgumentError, InputError
from distcnn.network import Network
from distcnn.score import Mistake, Score, Tally, wilson_interval


def network(
    classes: int = 3, size: int = 4, scale: float = 1.0, arithmetic: str = "native"
) -> Network:
    """One pixel a class: that of a bright pixel is the answer, of several the brightest."""
    model = nn.Sequential([nn.Flatten(), nn.Dense(classes)])
    weights: dict[str, Any] = {
        "dense1.weight": np.eye(classes, dtype=np.float32) * scale,
        "dense1.bias": np.zeros(classes, np.float32),
    }
    return Network(
        model,
        weights,
        image_shape=(1, 1, classes),
        mean=[0.0],
        std=[1.0],
        class_names=[str(index) for index in range(classes)],
        microbatch_size=size,
        arithmetic=arithmetic,
    )


def images_of(answers: list[int], classes: int = 3) -> np.ndarray:
    return (np.eye(classes)[answers] * 255).astype(np.uint8).reshape(-1, 1, classes)


@pytest.mark.parametrize("arithmetic", ["native", "portable"])
def test_a_score_by_hand(arithmetic: str) -> None:
    labels = [0, 0, 0, 1, 1, 1]
    score = network(arithmetic=arithmetic).evaluate(images_of([0, 0, 1, 1, 1, 1]), labels)
    assert_array_equal(score.confusion, [[2, 1, 0], [0, 3, 0], [0, 0, 0]])
    assert (score.correct, score.examples, score.accuracy) == (5, 6, 5 / 6)
    assert_allclose(score.precision, [1, 3 / 4, math.nan])
    assert_allclose(score.recall, [2 / 3, 1, math.nan])
    assert_allclose(score.f1, [4 / 5, 6 / 7, math.nan])
    right, wrong = math.log(1 + 2 / math.e), math.log(math.e + 2)
    assert score.loss == pytest.approx((5 * right + wrong) / 6, rel=1e-6)
    (mistake,) = score.mistakes
    assert (mistake.index, mistake.label, mistake.predicted) == (2, 0, 1)
    assert mistake.loss == pytest.approx(wrong)
    assert mistake.probability == pytest.approx(math.e / (math.e + 2))
    assert repr(score).startswith("Score(accuracy=0.8333333333333334, correct=5, examples=6")


@pytest.mark.parametrize(
    ("correct", "examples"), [(0, 1), (1, 1), (0, 50), (50, 50), (9877, 10000)]
)
def test_the_interval_is_wilsons(correct: int, examples: int) -> None:
    expected = binomtest(correct, examples).proportion_ci(method="wilson")
    assert_allclose(wilson_interval(correct, examples), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_microbatch_size_counts_each_example_once(size: int) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 1, 3), np.uint8), rng.integers(0, 3, 50)
    score, other = (network(size=each).evaluate(images, labels) for each in (size, 4))
    assert_array_equal(score.confusion, other.confusion)
    assert score.loss == pytest.approx(other.loss, rel=1e-6)
    assert [each.index for each in score.mistakes] == [each.index for each in other.mistakes]


def test_parts_in_any_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (401, 1, 3), np.uint8), rng.integers(0, 3, 401)
    trained = network()
    whole = trained.evaluate(images, labels)
    tally = Tally(3, 101)
    for first in (200, 0, 300, 100, 400):
        part = slice(first, first + 100)
        trained.count(tally, images[part], labels[part], first)
    parts = tally.score()
    assert (parts.loss, parts.mistakes) == (whole.loss, whole.mistakes)
    assert_array_equal(parts.confusion, whole.confusion)


def test_portable_scores_and_predictions_are_the_native_ones_but_for_rounding() -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (90, 1, 3), np.uint8), rng.integers(0, 3, 90)
    native, portable = (network(arithmetic=arithmetic) for arithmetic in ("native", "portable"))
    assert_allclose(portable.predict(images), native.predict(images), rtol=1e-6)
    assert portable.predict(images).dtype == np.float32
    assert portable.predict(images[:0]).shape == (0, 3)
    expected, score = native.evaluate(images, labels), portable.evaluate(images, labels)
    assert score.loss == pytest.approx(expected.loss, rel=1e-6)
    assert_array_equal(score.confusion, expected.confusion)
    assert {type(each) for found in score.mistakes for each in vars(found).values()} == {int, float}


def test_the_worst_mistakes_come_first_and_equal_ones_in_order() -> None:
    images = images_of([1] * 150 + [0])
    images[120] = [[200, 255, 0]]
    images[130] = [[0, 255, 255]]
    mistakes = network().evaluate(images, [0] * 151).mistakes
    assert len(mistakes) == Score.MOST_MISTAKES
    assert [mistake.index for mistake in mistakes] == [130, *range(99)]
    losses = [mistake.loss for mistake in mistakes]
    assert losses == sorted(losses, reverse=True)
    assert isinstance(mistakes[0], Mistake)


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match=r"examples 0 to 3: .*not finite"):
        network(scale=math.nan).evaluate(images_of([0, 1, 2, 0, 1]), [0, 1, 2, 0, 1])


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one image"):
        network().evaluate(np.zeros((0, 1, 3), np.uint8), [])
