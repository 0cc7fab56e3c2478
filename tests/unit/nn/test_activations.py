"""Activations: a gradient check, values by hand, a reference of plain loops, and a user's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

from distcnn.nn import (
    Activation,
    AvgPool2d,
    Conv2d,
    Flatten,
    Identity,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Tanh,
)
from distcnn.nn.kernels.activations import ActivationKernel
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Call, Layer
from distcnn.portable import functions
from tests.support.networks import planned

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


class Softplus(Activation):
    """The example of the module's docstring."""

    def function(self, x: Array, out: Array) -> None:
        np.logaddexp(x, 0, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.negative(y, out=out)
        np.expm1(out, out=out)
        np.negative(out, out=out)


class Leaky(ReLU):
    """An activation derived from another."""

    def function(self, x: Array, out: Array) -> None:
        np.maximum(x, 0.25 * x, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.copyto(out, np.where(x > 0, 1, 0.25))


every_activation = pytest.mark.parametrize(
    "activation", [ReLU, Sigmoid, Tanh, Identity, Leaky, Softplus]
)


def run(activation: type[Activation], x: Array, grad_output: Array) -> tuple[Array, Array]:
    network = planned([activation()], x.shape[:-1], x.shape[-1], x.dtype)
    output = network.forward(x)
    grad = network.backward(grad_output, input_gradient=True)
    assert grad is not None
    return output, grad


@every_activation
@examples
@given(shape=shapes, seed=seeds)
def test_gradients_agree_with_finite_differences(
    activation: type[Activation], shape: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    network = planned([activation()], shape, 3, np.float64)
    # No x within 0.1 of ReLU's corner, where finite differences mean nothing.
    x = rng.choice([-1.0, 1.0], (*shape, 3)) * rng.uniform(0.1, 3.0, (*shape, 3))
    assert network.gradient_error(rng, x) < 1e-5


@pytest.mark.parametrize(
    ("activation", "x", "output", "derivative"),
    [
        (ReLU, [-2, -0.0, 0, 0.5, 3], [0, 0, 0, 0.5, 3], [0, 0, 0, 1, 1]),
        (Sigmoid, [0, math.log(3), -math.log(3)], [0.5, 0.75, 0.25], [0.25, 0.1875, 0.1875]),
        (Tanh, [0, math.log(2), -math.log(3)], [0, 0.6, -0.8], [1, 0.64, 0.36]),
        (Identity, [-7, 0, 2.5], [-7, 0, 2.5], [1, 1, 1]),
        (Softplus, [0, math.log(3)], [math.log(2), math.log(4)], [0.5, 0.75]),
    ],
)
def test_values_by_hand(
    activation: type[Activation], x: list[float], output: list[float], derivative: list[float]
) -> None:
    actual, grad = run(activation, np.array([x]), np.full((1, len(x)), 2.0))
    np.testing.assert_allclose(actual[0], output, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(grad[0], 2 * np.array(derivative), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_saturates_without_overflow(dtype: DTypeLike) -> None:
    largest = float(np.finfo(dtype).max)
    x = np.array([[-largest, -1e4, -100, 100, 1e4, largest]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        output, grad = run(Sigmoid, x, np.ones_like(x))
    np.testing.assert_array_equal(output, [[0, 0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(grad, np.zeros((1, 6)))


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(activation: type[Activation], dtype: DTypeLike) -> None:
    output, grad = run(activation, np.ones((2, 3), dtype), np.ones((2, 3), dtype))
    assert output.dtype == grad.dtype == dtype


@every_activation
def test_input_and_incoming_gradient_are_left_as_they_were(activation: type[Activation]) -> None:
    x, grad_output = np.array([[-1.5, 2.0]]), np.array([[3.0, 4.0]])
    run(activation, x, grad_output)
    np.testing.assert_array_equal(x, [[-1.5, 2]])
    np.testing.assert_array_equal(grad_output, [[3, 4]])


class _PassOn(Identity):
    """Returns its argument, the same array."""

    def backward(self, grad_output: Array, call: Call) -> Array:
        return grad_output


@pytest.mark.parametrize(
    "after",
    [
        *([Conv2d(2, 2)], [MaxPool2d(2, 1)], [AvgPool2d(2)], [Conv2d(2, 2), ReLU()]),
        *([], [Flatten()], [_PassOn()], [Tanh()]),
    ],
    ids=lambda layers: "+".join(type(layer).__name__ for layer in layers),
)
def test_no_gradient_is_overwritten_that_somebody_still_needs(after: list[Layer]) -> None:
    network, rng = planned([ReLU(), *after], (2, 5, 5), 3, np.float64), np.random.default_rng(1)
    network.parameters.assign(rng.standard_normal(network.values.shape))
    y = network.forward(rng.standard_normal((2, 5, 5, 3)))
    grad_output = rng.standard_normal(y.shape)
    before = grad_output.copy()
    network.backward(grad_output, input_gradient=True)
    np.testing.assert_array_equal(grad_output, before)
    assert network.gradient_error(rng) < 1e-5


@pytest.mark.parametrize("activation", [Sigmoid, Tanh, Identity, Leaky, Softplus])
def test_in_portable_arithmetic_only_the_built_in_functions_change(
    activation: type[Activation],
) -> None:
    x = 4 * np.random.default_rng(2).standard_normal((3, 8))
    native, portable = (
        ActivationKernel(activation(), x.shape, Buffers(np.float64), arithmetic)
        for arithmetic in ("native", "portable")
    )
    y, expected = portable.forward(x, Call("", {})), native.forward(x, Call("", {}))
    np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(
        portable.backward(np.ones_like(x), Call("", {}), True),
        native.backward(np.ones_like(x), Call("", {}), True),
        rtol=1e-12,
        atol=1e-15,
    )
    function = {Sigmoid: functions.sigmoid, Tanh: functions.tanh}.get(activation)
    np.testing.assert_array_equal(y, function(x) if function else expected)


def test_a_users_own_function_of_a_built_in_activation_is_kept() -> None:
    class Hard(Tanh):
        def function(self, x: Array, out: Array) -> None:
            np.clip(x, -1, 1, out=out)

    x = np.array([[-3.0, 0.5, 2.0]])
    kernel = ActivationKernel(Hard(), x.shape, Buffers(np.float64), "portable")
    np.testing.assert_array_equal(kernel.forward(x, Call("", {})), [[-1, 0.5, 1]])


def test_a_users_own_activation_names_its_layers() -> None:
    network = planned([Softplus(), Tanh(), Softplus()], (2,), 1)
    assert network.model.names == ("softplus1", "tanh1", "softplus2")


def test_a_half_written_activation_says_what_it_must_define() -> None:
    class Half(Activation):
        pass

    with pytest.raises(NotImplementedError, match=r"Half must define function\(x, out\)"):
        run(Half, np.ones((2, 1)), np.ones((2, 1)))

    class Forward(Identity):
        derivative = Activation.derivative

    with pytest.raises(NotImplementedError, match=r"Forward must define derivative\(x, y, out\)"):
        run(Forward, np.ones((2, 1)), np.ones((2, 1)))
