"""The gradient check that ships with the package: one random direction, in float64."""

from __future__ import annotations

import numpy as np

from distcnn.nn.layer import Array
from distcnn.nn.losses import Loss
from distcnn.nn.sequential import Sequential


def gradient_error(
    network: Sequential, x: Array, rng: np.random.Generator, epsilon: float = 1e-6
) -> float:
    """Relative difference between backward and central differences of L = <forward(x), random
    vector>.

    ``network`` must be planned in float64. Both the input and all parameters move along one random
    direction d, so one number tests every gradient at once: ``(L(+eps d) - L(-eps d)) / (2 eps)``
    against ``<grad, d>``. Around 1e-9 is right; above 1e-5 is wrong.
    """
    direction_x, direction_values = (
        rng.standard_normal(x.shape),
        rng.standard_normal(network.values.shape),
    )
    start = network.values.copy()
    outputs = network.forward(x)
    cotangent = rng.standard_normal(outputs.shape)
    grad_x = network.backward(cotangent, input_gradient=True)
    assert grad_x is not None  # it was asked for
    analytic = float(np.sum(grad_x * direction_x) + network.grads @ direction_values)

    def moved(by: float) -> float:
        network.values[:] = start + by * direction_values
        return float(np.vdot(network.forward(x + by * direction_x), cotangent))

    numeric = (moved(epsilon) - moved(-epsilon)) / (2 * epsilon)
    network.values[:] = start
    return abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3)


def loss_gradient_error(
    loss: Loss, outputs: Array, labels: np.ndarray, weights: Array, rng: np.random.Generator
) -> float:
    """The same check for a loss: relative difference along one random direction of its ``outputs``
    (float64).
    """
    direction, epsilon = rng.standard_normal(outputs.shape), 1e-6
    analytic = float(np.vdot(loss(outputs, labels, weights)[1], direction))
    above, below = (
        loss(outputs + sign * epsilon * direction, labels, weights)[0] for sign in (1, -1)
    )
    numeric = (above - below) / (2 * epsilon)
    return abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3)
