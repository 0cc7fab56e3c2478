"""The gradient check itself: it must accept what is right and notice each gradient that is
wrong.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.nn import Dense, Flatten, Sequential, Tanh, softmax_cross_entropy
from distcnn.nn.gradient_check import gradient_error, loss_gradient_error
from tests.support.networks import planned

Array = NDArray[np.floating]


class WrongTanh(Tanh):
    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.subtract(1, y, out=out)


class WrongDense(Dense):
    """Spoils one of its gradients."""

    spoilt = ""

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        grad_input = super().backward(grad_output, input_gradient)
        if grad_input is not None and self.spoilt == "input":
            grad_input *= 1.01
        if self.spoilt == "weight":
            self._grad_weight *= 1.01
        if self.spoilt == "bias":
            self._grad_bias *= 1.01
        return grad_input


def check(network: Sequential) -> float:
    rng = np.random.default_rng(0)
    network.plan((2, 2, 1), 3, np.float64).initialise(rng)
    return gradient_error(network.model, rng.standard_normal((2, 2, 1, 3)), rng, network.parameters)


def test_right_gradients_pass() -> None:
    assert check(Sequential([Flatten(), Dense(3), Tanh(), Dense(2)])) < 1e-7


def test_a_wrong_derivative_is_noticed() -> None:
    assert check(Sequential([Flatten(), Dense(3), WrongTanh(), Dense(2)])) > 1e-3


@pytest.mark.parametrize("spoilt", ["input", "weight", "bias"])
def test_each_gradient_wrong_by_a_hundredth_is_noticed(spoilt: str) -> None:
    layer = WrongDense(3)
    layer.spoilt = spoilt
    assert check(Sequential([Flatten(), layer])) > 1e-4


def test_values_are_put_back() -> None:
    network = planned(Sequential([Dense(2)]), (3,), 2, np.float64).initialise(
        np.random.default_rng(0)
    )
    before = network.values.copy()
    gradient_error(network.model, np.ones((3, 2)), np.random.default_rng(1), network.parameters)
    np.testing.assert_array_equal(network.values, before)


def test_a_wrong_loss_gradient_is_noticed() -> None:
    def wrong(outputs: Array, labels: NDArray[np.integer], weights: Array) -> tuple[float, Array]:
        loss_sum, grad = softmax_cross_entropy(outputs, labels, weights)
        return loss_sum, grad / 2

    arguments = np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 1, 2, 0]), np.ones(4)
    assert loss_gradient_error(softmax_cross_entropy, *arguments, np.random.default_rng(1)) < 1e-7
    assert loss_gradient_error(wrong, *arguments, np.random.default_rng(1)) > 0.1
