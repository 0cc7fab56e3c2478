"""``Predictions``: what a network says about pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError


def require_finite(outputs: NDArray[np.float32]) -> None:
    """``InputError`` unless the outputs of a network are finite."""
    if not np.isfinite(outputs).all():
        raise InputError("the network's outputs are not finite: its training diverged")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says about N pictures, with K classes.

    Attributes:
        names: of the pictures (N): ``digit.png``, ``set.h5[12]``.
        probabilities: (N, K) float32.
        class_names: (K), in the order of the columns.
        notices: what was done to the pictures, lines for people.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_finite(self.probabilities)

    @property
    def classes(self) -> list[str]:
        """The most probable class of each picture, by its name."""
        return [self.class_names[label] for label in self.probabilities.argmax(axis=1)]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """For each picture the ``count`` most probable classes, with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.class_names[label], float(row[label])) for label in labels]
            for row, labels in zip(self.probabilities, order, strict=True)
        ]

    def __str__(self) -> str:
        best = zip(self.names, self.top(1), strict=True)
        return "\n".join(f"{name}: {top[0][0]} ({top[0][1]:.4f})" for name, top in best)
