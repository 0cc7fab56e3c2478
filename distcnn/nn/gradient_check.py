"""The gradient check that ships with the package: one random direction, in float64."""

from collections.abc import Callable

import numpy as np

from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Loss
from distcnn.nn.parameters import Parameters
from distcnn.nn.sequential import Sequential


def gradient_error(
    model: Sequential,
    x: Array,
    rng: np.random.Generator,
    parameters: Parameters | None = None,
    random_source: RandomSource | None = None,
    gradient: Array | None = None,
) -> float:
    """Compare backward with central differences of a scalar, L = <forward(x), v> for a random v.

    Both the input and all parameters move along one random direction d, so one number tests every
    gradient at once: ``(L(+eps d) - L(-eps d)) / (2 eps)`` against ``<grad, d>``.

    Args:
        model: what is checked, as in training.
        x: one microbatch ``(*input_shape, N)``, float64.
        rng: draws the direction, and the parameters where none are given.
        parameters: where to check, float64; their values are as before afterwards.
        random_source: for layers that draw random numbers; must give the same stream at every call.
        gradient: receives the parameters' gradient of the checked pass.

    Returns:
        The relative error: about 1e-9 if the gradients are correct, above 1e-5 if one is wrong. It
        is relative to at least 1e-3, so that a derivative near zero is not divided by itself.
    """
    if parameters is None:
        parameters = model.initialise(x.shape[:-1], rng, np.float64)
    plan, start = model.plan(x.shape[:-1], x.shape[-1], parameters), parameters.values.copy()
    direction_x, direction_values = rng.standard_normal(x.shape), rng.standard_normal(start.shape)
    grads = np.zeros_like(start) if gradient is None else gradient
    outputs = plan.forward(x, training=True, random_source=random_source)
    grad_outputs = rng.standard_normal(outputs.shape)  # v, the gradient of L
    grad_x = plan.backward(grad_outputs, out=grads, input_gradient=True)
    assert grad_x is not None  # it was requested
    analytic = float(np.sum(grad_x * direction_x) + grads @ direction_values)

    def moved_loss(by: float) -> float:
        parameters.assign(start + by * direction_values)
        outputs = plan.forward(x + by * direction_x, training=True, random_source=random_source)
        return float(np.vdot(outputs, grad_outputs))

    error = _error(moved_loss, analytic)
    parameters.assign(start)
    return error


def loss_gradient_error(
    loss: Loss, outputs: Array, labels: np.ndarray, weights: Array, rng: np.random.Generator
) -> float:
    """Compare a loss's gradient with central differences, along one random direction.

    Args:
        loss: what is checked, ``(outputs, labels, weights) -> (loss_sum, grad_outputs)``.
        outputs: where to check, (classes, N), float64.
        labels: (N,) integers, 0 to classes - 1.
        weights: (N,), float64.
        rng: draws the direction.

    Returns:
        The relative error, as ``gradient_error``.
    """
    direction = rng.standard_normal(outputs.shape)
    analytic = float(np.vdot(loss(outputs, labels, weights)[1], direction))
    return _error(lambda by: loss(outputs + by * direction, labels, weights)[0], analytic)


def _error(moved_loss: Callable[[float], float], analytic: float, epsilon: float = 1e-6) -> float:
    numeric = (moved_loss(epsilon) - moved_loss(-epsilon)) / (2 * epsilon)
    return abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3)
