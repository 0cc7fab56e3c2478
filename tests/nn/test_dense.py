"""Dense and Flatten: a gradient check, values by hand, and a reference of plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.nn import Dense, Flatten, Sequential
from distcnn.nn.gradient_check import gradient_error

examples = settings(deadline=None, derandomize=True, max_examples=50)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def dense(in_features: int, out_features: int, count: int, rng: np.random.Generator) -> Sequential:
    network = Sequential([Dense(out_features)]).plan((in_features,), count, np.float64)
    network.values[:] = rng.standard_normal(network.values.shape)
    return network


@examples
@given(sizes, sizes, sizes, seeds)
def test_gradients_agree_with_finite_differences(in_features: int, out_features: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = dense(in_features, out_features, count, rng)
    assert gradient_error(network, rng.standard_normal((in_features, count)), rng) < 1e-5


@examples
@given(sizes, sizes, sizes, seeds)
def test_forward_and_backward_agree_with_plain_loops(in_features: int, out_features: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = dense(in_features, out_features, count, rng)
    weight, bias = network.named_values()["dense1.weight"], network.named_values()["dense1.bias"]
    x, grad_output = rng.standard_normal((in_features, count)), rng.standard_normal((out_features, count))
    y, grad_x = np.zeros((out_features, count)), np.zeros_like(x)
    grad_weight, grad_bias = np.zeros_like(weight), np.zeros_like(bias)
    for o, n in np.ndindex(out_features, count):
        y[o, n] = bias[o]
        grad_bias[o] += grad_output[o, n]
        for i in range(in_features):
            y[o, n] += weight[o, i] * x[i, n]
            grad_weight[o, i] += grad_output[o, n] * x[i, n]
            grad_x[i, n] += grad_output[o, n] * weight[o, i]

    np.testing.assert_allclose(network.forward(x), y, rtol=1e-11, atol=1e-11)
    actual_grad_x = network.backward(grad_output, input_gradient=True)
    assert actual_grad_x is not None
    np.testing.assert_allclose(actual_grad_x, grad_x, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(network.named_grads()["dense1.weight"], grad_weight, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(network.named_grads()["dense1.bias"], grad_bias, rtol=1e-11, atol=1e-11)


def test_dense_by_hand() -> None:
    network = Sequential([Dense(2)]).plan((3,), 2, np.float64)
    network.values[:] = [1, 2, 3, 4, 5, 6, 0.5, -0.5]
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]])
    np.testing.assert_array_equal(network.forward(x), [[-1.5, 8.5], [-2.5, 16.5]])

    grad_x = network.backward(np.array([[1.0, 2.0], [0.0, -1.0]]), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x, [[1, -2], [2, -1], [3, 0]])
    np.testing.assert_array_equal(network.named_grads()["dense1.weight"], [[1, 2, 3], [0, -1, -2]])
    np.testing.assert_array_equal(network.named_grads()["dense1.bias"], [3, -1])


def test_without_the_input_gradient_the_parameters_gradients_are_the_same() -> None:
    rng = np.random.default_rng(0)
    network, x = dense(4, 3, 2, rng), rng.standard_normal((4, 2))
    grad_output = rng.standard_normal((3, 2))
    network.forward(x)
    network.backward(grad_output, input_gradient=True)
    expected = network.grads.copy()
    network.grads[:] = np.nan
    assert network.backward(grad_output) is None
    np.testing.assert_array_equal(network.grads, expected)


def test_flatten_orders_by_channel_then_row_then_column_and_shares_memory() -> None:
    layer = Flatten()
    assert layer.plan((2, 3, 4), 5, np.float64) == (24,)
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    flat = layer.forward(x)
    assert np.shares_memory(flat, x)
    for c, h, w, n in np.ndindex(x.shape):
        assert flat[(c * 3 + h) * 4 + w, n] == x[c, h, w, n]


def test_flatten_turns_the_gradient_back_into_images() -> None:
    layer = Flatten()
    layer.plan((2, 3, 4), 5, np.float64)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(layer.backward(layer.forward(x)), x)
    assert layer.backward(layer.forward(x), input_gradient=False) is None


@examples
@given(st.tuples(sizes, sizes, sizes), sizes, sizes, seeds)
def test_flatten_before_dense_passes_the_gradient_check(shape: tuple[int, int, int], out_features: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = Sequential([Flatten(), Dense(out_features)]).plan(shape, count, np.float64).initialise(rng)
    assert gradient_error(network, rng.standard_normal((*shape, count)), rng) < 1e-5


@pytest.mark.parametrize("out_features", [0, -3])
def test_too_few_features_are_refused(out_features: int) -> None:
    with pytest.raises(ValueError, match=rf"out_features \(={out_features}\) must be an integer of at least 1"):
        Dense(out_features)


def test_images_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"dense1: Dense takes flat inputs .* shape \(1, 28, 28\): put Flatten before it"):
        Sequential([Dense(10)]).plan((1, 28, 28), 1)
