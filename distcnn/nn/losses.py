"""Losses: ``loss(outputs, labels, weights) -> (loss_sum, grad_outputs)``.

Sums over examples, not means: the sum over all shards is divided once, by the number of examples.
``distcnn.nn.reference`` has the derivations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import ArgumentError
from distcnn.nn.layer import Array
from distcnn.portable.functions import exp, log1p, total

Labels = NDArray[np.integer]
Loss = Callable[[Array, Labels, Array], tuple[float, Array]]
"""``(outputs, labels, weights) -> (loss_sum, grad_outputs)``, as ``squared_error``."""


def softmax_cross_entropy(logits: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
    """``sum over n of weights[n] * -log p[label, n]`` with ``p = softmax(logits)``.

    The gradient is ``weights * (p - onehot)``. The largest logit is subtracted first, so that no
    exp overflows (Goodfellow et al. 2016, section 4.1). For a confident prediction the sum under
    the logarithm is 1 + x, with an x that even float64 may round away: hence ``log1p(x)``.

    Args:
        logits: (classes, N), float32 or float64.
        labels: (N,) integers, 0 to classes - 1.
        weights: (N,), 1 for an example and 0 for padding, which adds nothing to loss or gradient.

    Returns:
        The weighted sum of the examples' losses, and its gradient (classes, N).

    Raises:
        ValueError: for arrays of other shapes, such as PyTorch's (N, classes).
    """
    _check_shapes(logits, labels, weights)
    columns = np.arange(logits.shape[1])
    shifted = logits - logits.max(axis=0)
    label_logits = shifted[labels, columns]
    grad = np.exp(shifted)
    totals, label_exps = np.add.reduce(grad, axis=0), grad[labels, columns]
    grad[labels, columns] = 0
    others = np.add.reduce(grad, axis=0, dtype=np.float64)
    losses = (np.log1p(others + (label_exps - 1)) - label_logits) * weights
    grad /= totals
    grad[labels, columns] = label_exps / totals - 1
    grad *= weights
    return float(np.add.reduce(losses)), grad


def squared_error(outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
    """``sum over n of weights[n] * 1/2 * sum over k of (y[k, n] - onehot[k, n])^2``.

    The gradient is ``weights * (y - onehot)``.

    Args:
        outputs: (classes, N), float32 or float64.
        labels: (N,) integers, 0 to classes - 1.
        weights: (N,), 1 for an example and 0 for padding, which adds nothing to loss or gradient.

    Returns:
        The weighted sum of the examples' losses, and its gradient (classes, N).

    Raises:
        ValueError: for arrays of other shapes, such as PyTorch's (N, classes).
    """
    _check_shapes(outputs, labels, weights)
    grad = outputs.copy()
    grad[labels, np.arange(outputs.shape[1])] -= 1
    losses = 0.5 * np.square(grad).sum(axis=0) * weights
    grad *= weights
    return float(losses.sum(dtype=np.float64)), grad


def portable_softmax_cross_entropy(
    logits: Array, labels: Labels, weights: Array
) -> tuple[float, Array]:
    """``softmax_cross_entropy`` in float64, with the same bits on every machine."""
    _check_shapes(logits, labels, weights)
    columns = np.arange(logits.shape[1])
    shifted = np.subtract(logits, logits.max(axis=0), dtype=np.float64)
    grad: Array = exp(shifted)
    label_exps = grad[labels, columns]
    grad[labels, columns] = 0
    others = total(grad)
    losses = (log1p(others + (label_exps - 1)) - shifted[labels, columns]) * weights
    totals = others + label_exps
    grad /= totals
    grad[labels, columns] = label_exps / totals - 1
    grad *= weights
    return float(total(losses)), grad


def portable_squared_error(outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
    """``squared_error`` in float64, with the same bits on every machine."""
    _check_shapes(outputs, labels, weights)
    grad: Array = outputs.astype(np.float64)
    grad[labels, np.arange(outputs.shape[1])] -= 1
    losses = total(grad * grad) * 0.5 * weights
    grad *= weights
    return float(total(losses)), grad


def portable_loss(loss: Loss) -> Loss:
    """The form of a built-in ``loss`` that gives the same bits on every machine, or else ``loss``
    itself.
    """
    if loss is softmax_cross_entropy:
        return portable_softmax_cross_entropy
    return portable_squared_error if loss is squared_error else loss


@dataclass(frozen=True)
class OwnLoss:
    """A loss of the user's own: calls ``function``, and checks what it returns."""

    function: Loss

    def __call__(self, outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
        returned: Any = self.function(outputs, labels, weights)
        match returned:
            case [loss_sum, np.ndarray(shape=outputs.shape) as grad] if np.ndim(loss_sum) == 0:
                return loss_sum, grad
            case [loss_sum, grad]:
                what = f"arrays of shapes {np.shape(loss_sum)} and {np.shape(grad)}"
            case _:
                what = f"a {type(returned).__name__}"
        name = getattr(self.function, "__name__", type(self.function).__name__)
        raise ArgumentError(
            f"loss {name} returned {what}: it must return (loss_sum, grad_outputs), a number and"
            f" an array of the shape of the outputs, {outputs.shape}"
        )


def _check_shapes(outputs: Array, labels: Labels, weights: Array) -> None:
    if not labels.shape == weights.shape == outputs.shape[1:] or outputs.ndim != 2:
        raise ValueError(
            f"outputs of shape {outputs.shape} with labels {labels.shape} and weights"
            f" {weights.shape}: a loss takes outputs (classes, N), labels (N,) and one weight for"
            " each example, (N,)"
        )


LOSSES: dict[str, Loss] = {"cross-entropy": softmax_cross_entropy, "squared-error": squared_error}

GUESSING: dict[str, Callable[[int], float]] = {
    "cross-entropy": math.log,
    "squared-error": lambda classes: (1 - 1 / classes) / 2,
}
"""The mean loss of a network that finds all classes equally likely, by the number of classes."""
