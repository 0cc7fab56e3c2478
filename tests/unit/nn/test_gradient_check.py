"""The gradient check itself: it accepts correct gradients and notices each wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.nn import Dense, Flatten, Sequential, Tanh, softmax_cross_entropy
from distcnn.nn.gradient_check import gradient_error, loss_gradient_error
from distcnn.nn.layer import Call, Layer, Parameter, Shape
from tests.support.networks import planned

Array = NDArray[np.floating]


class WrongTanh(Tanh):
    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.subtract(1, y, out=out)


class WrongDense(Layer):
    """Computes one of its gradients wrongly."""

    def __init__(self, spoilt: str) -> None:
        self.spoilt = spoilt

    def output_shape(self, input_shape: Shape) -> Shape:
        return (3,)

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        return Dense(3).parameters(input_shape)

    def forward(self, x: Array, call: Call) -> Array:
        call.saved = x
        return np.matmul(call.values["weight"], x) + call.values["bias"][:, np.newaxis]

    def backward(self, grad_output: Array, call: Call) -> Array:
        gradients = {
            "weight": np.matmul(grad_output, call.saved.T),
            "bias": grad_output.sum(axis=1),
            "input": np.matmul(call.values["weight"].T, grad_output),
        }
        if self.spoilt:
            gradients[self.spoilt] *= 1.01
        for name, grads in call.grads.items():
            grads[...] = gradients[name]
        return gradients["input"]


def check(model: Sequential) -> float:
    rng = np.random.default_rng(0)
    return gradient_error(model, rng.standard_normal((2, 2, 1, 3)), rng)


def test_right_gradients_pass() -> None:
    assert check(Sequential([Flatten(), Dense(3), Tanh(), Dense(2)])) < 1e-7


def test_a_wrong_derivative_is_noticed() -> None:
    assert check(Sequential([Flatten(), Dense(3), WrongTanh(), Dense(2)])) > 1e-3


def test_a_users_own_layer_that_is_right_passes() -> None:
    assert check(Sequential([Flatten(), WrongDense("")])) < 1e-7


@pytest.mark.parametrize("spoilt", ["input", "weight", "bias"])
def test_each_gradient_wrong_by_a_hundredth_is_noticed(spoilt: str) -> None:
    assert check(Sequential([Flatten(), WrongDense(spoilt)])) > 1e-4


def test_values_are_put_back() -> None:
    network = planned([Dense(2)], (3,), 2, np.float64).initialise(np.random.default_rng(0))
    before = network.values.copy()
    network.gradient_error(np.random.default_rng(1))
    np.testing.assert_array_equal(network.values, before)


def test_a_wrong_loss_gradient_is_noticed() -> None:
    def wrong(outputs: Array, labels: NDArray[np.integer], weights: Array) -> tuple[float, Array]:
        loss_sum, grad = softmax_cross_entropy(outputs, labels, weights)
        return loss_sum, grad / 2

    arguments = np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 1, 2, 0]), np.ones(4)
    assert loss_gradient_error(softmax_cross_entropy, *arguments, np.random.default_rng(1)) < 1e-7
    assert loss_gradient_error(wrong, *arguments, np.random.default_rng(1)) > 0.1
