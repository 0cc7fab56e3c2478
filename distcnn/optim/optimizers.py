"""Optimizers on flat vectors: ``step(values, grads, learning_rate, count)`` changes ``values`` in
place.

Every rank takes the same update from the same gradient, elementwise, so the replicas stay the same
bits. ``state`` holds an optimizer's vectors by name (shape of ``values``), ``steps`` how many steps
it has taken: together they are all it remembers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import explained

Vector = NDArray[np.floating]

CHUNK = 32768
"""Elements updated at a time: an update goes over them many times, so they had better stay in the
nearest caches meanwhile.
"""


FLUSH_EVERY = 64
"""Steps between two flushes: they cost less than 0.1 % of the time then."""
NEGLIGIBLE = 2.0**10
"""In units of the smallest normal number. A smaller state is set to 0: with momentum 0.9 it would
not get below 1 before the next flush.

Without that, the momentum of a unit whose gradient stays 0 decays into subnormal numbers, and stays
at 4e-45 (in float32) for ever: the product rounds up again. Many processors need a hundred cycles
for each such number: on an AMD EPYC of 2025, SGD takes no longer, but Adam, with its root and
quotient, 6 times as long.
"""

OF_STEP = "the learning rate is an argument of step()"


class Optimizer:
    """What all optimizers share: named state vectors and the count of steps."""

    def __init__(self, values: Vector, state_names: tuple[str, ...]) -> None:
        self.state = {name: np.zeros_like(values) for name in state_names}
        self.steps = 0
        self._negligible = NEGLIGIBLE * float(np.finfo(values.dtype).smallest_normal)
        self._mean, self._scratch = (np.zeros_like(values[:CHUNK]) for _ in range(2))

    def step(
        self, values: Vector, grads: Vector, learning_rate: float, *, count: float = 1
    ) -> None:
        """Take one step along ``grads / count``: the gradient of the mean loss over a global batch,
        of its sum over ``count`` examples.
        """
        self.steps += 1
        for start in range(0, values.size, CHUNK):
            few = slice(start, start + CHUNK)
            mean = np.divide(grads[few], count, out=self._mean[: values.size - start])
            state = {name: vector[few] for name, vector in self.state.items()}
            self._update(
                values[few], mean, state, learning_rate, self._scratch[: values.size - start]
            )
            if self.steps % FLUSH_EVERY == 0:
                for vector in state.values():
                    vector[np.abs(vector) < self._negligible] = 0

    def _update(
        self,
        values: Vector,
        grads: Vector,
        state: dict[str, Vector],
        learning_rate: float,
        scratch: Vector,
    ) -> None:
        """Elementwise: all vectors are the same chunk of the whole, ``scratch`` of any content, and
        ``grads`` may become scratch too.

        What needs the whole defines ``step``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define _update(values, grads, state, learning_rate,"
            " scratch)"
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's or the classical, and L2 weight decay.

        g <- g + weight_decay * p
        v <- momentum * v + g
        p <- p - learning_rate * (g + momentum * v   with Nesterov, else v)

    Sutskever et al. 2013, in the form of PyTorch.
    """

    @explained(f"write SGD(values, momentum=..., weight_decay=..., nesterov=...): {OF_STEP}")
    def __init__(
        self,
        values: Vector,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(values, ("velocity",) if momentum else ())
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov

    def _update(
        self,
        values: Vector,
        grads: Vector,
        state: dict[str, Vector],
        learning_rate: float,
        scratch: Vector,
    ) -> None:
        if self.weight_decay:
            grads += np.multiply(values, self.weight_decay, out=scratch)
        if self.momentum:
            velocity = state["velocity"]
            velocity *= self.momentum
            velocity += grads
            if self.nesterov:
                grads += np.multiply(velocity, self.momentum, out=scratch)
            else:
                grads = velocity
        values -= np.multiply(grads, learning_rate, out=scratch)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with weight decay added to the gradient, or decoupled
    from it.

    g <- g + weight_decay * p                                  (Adam)
    p <- p - learning_rate * weight_decay * p                  (AdamW: Loshchilov and Hutter 2019)
    m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * g^2
    p <- p - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
    """

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    @explained(f"write Adam(values, weight_decay=..., decoupled=...): {OF_STEP}")
    def __init__(
        self, values: Vector, *, weight_decay: float = 0.0, decoupled: bool = False
    ) -> None:
        super().__init__(values, ("first_moment", "second_moment"))
        self.weight_decay, self.decoupled = weight_decay, decoupled

    def _update(
        self,
        values: Vector,
        grads: Vector,
        state: dict[str, Vector],
        learning_rate: float,
        scratch: Vector,
    ) -> None:
        first, second = state["first_moment"], state["second_moment"]
        if self.weight_decay and self.decoupled:
            values *= 1.0 - learning_rate * self.weight_decay
        elif self.weight_decay:
            grads += np.multiply(values, self.weight_decay, out=scratch)
        first *= self.beta1
        first += np.multiply(grads, 1.0 - self.beta1, out=scratch)
        second *= self.beta2
        np.multiply(grads, grads, out=scratch)
        second += np.multiply(scratch, 1.0 - self.beta2, out=scratch)
        np.sqrt(second, out=scratch)
        scratch /= (1.0 - self.beta2**self.steps) ** 0.5
        scratch += self.epsilon
        np.divide(first, scratch, out=scratch)
        scratch *= learning_rate / (1.0 - self.beta1**self.steps)
        values -= scratch


OptimizerMaker = Callable[[Vector, float, float], Optimizer]
"""``(values, momentum, weight_decay) -> Optimizer``."""

OPTIMIZERS: dict[str, OptimizerMaker] = {
    "nesterov": lambda values, momentum, weight_decay: SGD(
        values, momentum=momentum, weight_decay=weight_decay, nesterov=True
    ),
    "sgd": lambda values, momentum, weight_decay: SGD(
        values, momentum=momentum, weight_decay=weight_decay
    ),
    "adam": lambda values, momentum, weight_decay: Adam(values, weight_decay=weight_decay),
    "adamw": lambda values, momentum, weight_decay: Adam(
        values, weight_decay=weight_decay, decoupled=True
    ),
}
