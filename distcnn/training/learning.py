"""Signs that a network learns nothing: what an epoch's sums, its test and its last gradient say.

The same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distcnn.nn.losses import GUESSING

HARDLY_BETTER = 0.99
"""An epoch's mean loss above this share of the loss of guessing is no better than guessing."""
MOST_NAMED = 6
"""Parameters named in a warning."""


def sign_of_no_learning(
    loss_name: str, loss: float, predicted: NDArray[np.int64] | None, classes: int, epoch: int
) -> str | None:
    """A sign that the network learns nothing, in words, or None.

    Args:
        loss_name: of ``LOSSES``.
        loss: the epoch's mean training loss.
        predicted: how many test images were put into each class (classes,); None where there
            was no test.
        classes: how many there are.
        epoch: counted from 1. In the first one the loss includes the steps before the network
            could learn anything.
    """
    if (
        predicted is not None
        and predicted.sum() > 1
        and classes > 1
        and np.count_nonzero(predicted) == 1
    ):
        return (
            f"the network puts all {predicted.sum():,} test images into class {predicted.argmax()}"
        )
    guessing = GUESSING[loss_name](classes)
    if epoch > 1 and loss >= HARDLY_BETTER * guessing:
        return f"the training loss of {loss:.4f} is no better than that of guessing, {guessing:.4f}"
    return None


def zero_gradients(gradients: Mapping[str, NDArray[np.floating]]) -> list[str]:
    """The names of those that are zero everywhere."""
    return [name for name, gradient in gradients.items() if not gradient.any()]


def advice(zero: list[str]) -> str:
    """What to do about a network that learns nothing, when the gradients of the parameters ``zero``
    are zero everywhere.
    """
    if not zero:
        return (
            "try another --learning-rate or more --epochs, and check that the labels belong to the"
            " images (--debug checks the network)"
        )
    more = f" and {len(zero) - MOST_NAMED} more" if len(zero) > MOST_NAMED else ""
    return (
        f"the gradient of {', '.join(zero[:MOST_NAMED])}{more} is zero everywhere: its units are"
        " dead or its weights began at zero; begin again with a lower --learning-rate, or with"
        " other initialisers"
    )
