"""Finding the first array that holds a NaN or Inf, on the way forward and back."""

from __future__ import annotations

import numpy as np

from distcnn.datasets import Microbatch
from distcnn.errors import TrainingError
from distcnn.nn import Plan, computing
from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Loss


class NotFinite(TrainingError):
    """An array that is not finite; its text names the array."""


def check_finite(what: str, array: Array) -> None:
    """``NotFinite`` when ``array``, called ``what``, holds a NaN or Inf."""
    if not np.isfinite(array).all():
        index = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise NotFinite(f"the {what} is {array[index]:g} at {tuple(map(int, index))}")


def check_pass(
    plan: Plan, loss: Loss, microbatch: Microbatch, random: RandomSource | None = None
) -> None:
    """Repeat forward and backward of a filled ``microbatch``, and check every array on the way.

    With ``random``, the layers are in training, and draw from it.
    """

    def checked_loss(logits: Array) -> tuple[float, Array]:
        loss_sum, grad_logits = loss(logits, microbatch.labels, microbatch.weights)
        check_finite("loss", np.asarray(loss_sum).reshape(1))
        return loss_sum, grad_logits

    for name, values in plan.parameters.named().items():
        check_finite(f"parameter {name}", values)
    images, gradients = microbatch.images, np.zeros_like(plan.parameters.values)
    training = random is not None
    with computing():
        for name, array in plan.walk(images, checked_loss, gradients, training, random):
            check_finite(name, array)
    for name, gradient in plan.parameters.named(gradients).items():
        check_finite(f"gradient of {name}", gradient)


def first_not_finite(
    plan: Plan, loss: Loss, microbatch: Microbatch, random: RandomSource | None = None
) -> str:
    """What ``check_pass`` finds for the same arguments; empty if everything is finite."""
    try:
        check_pass(plan, loss, microbatch, random)
    except NotFinite as error:
        return str(error)
    return ""
