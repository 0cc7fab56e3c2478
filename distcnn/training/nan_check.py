"""Finding the first array that holds a NaN or Inf, on the way forward and back."""

from __future__ import annotations

import numpy as np

from distcnn.datasets import Microbatch
from distcnn.errors import TrainingError
from distcnn.nn import computing
from distcnn.nn.losses import Loss
from distcnn.nn.planned import PlannedNetwork


class NotFinite(TrainingError):
    """An array that is not finite; its text names the array."""


def check_finite(what: str, array: np.ndarray) -> None:
    """``NotFinite`` when ``array`` holds a NaN or Inf. To be a network's ``observe``."""
    if not np.isfinite(array).all():
        index = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise NotFinite(f"the {what} is {array[index]:g} at {tuple(map(int, index))}")


def first_not_finite(network: PlannedNetwork, loss: Loss, microbatch: Microbatch) -> str | None:
    """Repeat forward and backward of ``microbatch`` with a check after each layer: where a NaN or
    Inf comes first, or None.
    """
    before, network.observe = network.observe, check_finite
    try:
        for name, values in network.named_values().items():
            check_finite(f"parameter {name}", values)
        with computing():
            logits = network.forward(microbatch.images)
            loss_sum, grad_logits = loss(logits, microbatch.labels, microbatch.weights)
            check_finite("loss", np.asarray(loss_sum).reshape(1))
            check_finite("gradient of the loss", grad_logits)
            network.backward(grad_logits)
            for name, grads in network.named_grads().items():
                check_finite(f"gradient of {name}", grads)
    except NotFinite as error:
        return str(error)
    finally:
        network.observe = before
    return None
