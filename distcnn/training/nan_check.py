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
    for name, values in plan.parameters.named().items():
        check_finite(f"parameter {name}", values)
    check_finite("input", microbatch.images)
    gradients, unfused, x = np.zeros_like(plan.parameters.values), plan.unfused(), microbatch.images
    with computing():
        for stage in unfused.stages:
            x = stage.forward(x, random is not None, random)
            check_finite(f"output of {stage.name}", x)
        loss_sum, grad_logits = loss(x, microbatch.labels, microbatch.weights)
        check_finite("loss", np.asarray(loss_sum).reshape(1))
        check_finite("gradient of the loss", grad_logits)
        started = unfused.start_backward(grad_logits, out=gradients)
        while layer := started.next_layer():
            check_finite(f"input gradient of {layer}", started.gradient)
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
