"""Initialisers: spread, bounds, determinism, and the fans that layers give them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distcnn.nn import Conv2d, Dense, glorot_uniform, he_normal, uniform, zeros
from distcnn.nn.layer import Initialiser
from tests.support.networks import planned

LARGE = (200, 500)


@pytest.mark.parametrize("fan_in", [2, 25, 800])
def test_he_normal_has_standard_deviation_sqrt_2_over_fan_in(fan_in: int) -> None:
    values = he_normal(np.random.default_rng(0), LARGE, fan_in, 7)
    expected = math.sqrt(2 / fan_in)
    assert values.std() == pytest.approx(expected, rel=0.01)
    assert abs(values.mean()) < 0.02 * expected
    # A normal distribution, no uniform one: 31.7 % lie further out than one standard deviation.
    assert np.mean(np.abs(values) > expected) == pytest.approx(0.317, abs=0.01)


@pytest.mark.parametrize(
    ("initialiser", "bound"), [(glorot_uniform, 0.5), (uniform(), 1e-4), (uniform(0.25), 0.25)]
)
def test_uniform_initialisers_fill_their_bounds_evenly(
    initialiser: Initialiser, bound: float
) -> None:
    values = initialiser(
        np.random.default_rng(0), LARGE, 8, 16
    )  # Glorot's bound: sqrt(6 / (8 + 16)) = 1/2
    assert 0.999 * bound < values.max() <= bound
    assert -bound <= values.min() < -0.999 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert abs(values.mean()) < 0.01 * bound


def test_zeros_are_zeros() -> None:
    np.testing.assert_array_equal(zeros(np.random.default_rng(0), (2, 3), 1, 1), np.zeros((2, 3)))


@pytest.mark.parametrize("initialiser", [he_normal, glorot_uniform, uniform(), zeros])
def test_the_shape_is_the_one_asked_for_and_the_seed_decides(initialiser: Initialiser) -> None:
    first, second, other = (
        initialiser(np.random.default_rng(seed), (4, 3, 2), 6, 8) for seed in (1, 1, 2)
    )
    assert first.shape == (4, 3, 2)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, second)
    assert initialiser is zeros or not np.array_equal(first, other)


def test_layers_give_their_fans() -> None:
    for parameter in Conv2d(7, (2, 3)).parameters((5, 9, 9)):
        assert (parameter.fan_in, parameter.fan_out) == (5 * 2 * 3, 7 * 2 * 3)
    for parameter in Dense(11).parameters((13,)):
        assert (parameter.fan_in, parameter.fan_out) == (13, 11)


def test_weights_begin_with_he_normal_and_biases_with_zero() -> None:
    network = planned([Dense(500)], (200,), 1, np.float64).initialise(np.random.default_rng(0))
    assert network.named_values()["dense1.weight"].std() == pytest.approx(0.1, rel=0.01)
    assert not network.named_values()["dense1.bias"].any()


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d(3, 2, weight_initialiser=uniform(), bias_initialiser=uniform(2.0)),
        Dense(3, weight_initialiser=uniform(), bias_initialiser=uniform(2.0)),
    ],
)
def test_a_layers_own_initialisers_are_used(layer: Conv2d | Dense) -> None:
    shape = (2, 5, 5) if isinstance(layer, Conv2d) else (50,)
    network = planned([layer], shape, 1).initialise(np.random.default_rng(0))
    weight, bias = network.named_values().values()
    assert 0.5e-4 < np.abs(weight).max() <= np.float32(1e-4)
    assert 1e-2 < np.abs(bias).max() <= 2.0
