"""Optimizers: immutable descriptions of an update rule, and ``Updater``, which applies one."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError
from distcnn.portable import functions

Vector = NDArray[np.floating]
Limits = tuple[str, Callable[[float], bool]]

CHUNK = 32768
"""Elements updated at a time: few enough for the nearest caches, as an update passes over them
several times."""
FLUSH_EVERY = 64
"""Steps between two flushes of tiny state, which then cost less than 0.1 % of the time."""
NEGLIGIBLE = 2.0**10
"""In units of the smallest normal number: smaller elements of the state are set to 0. Otherwise the
momentum of a unit whose gradient stays 0 decays into subnormal numbers and remains at 4e-45 (in
float32) forever, because the product rounds up; with many of them, Adam takes 6 times as long."""

_POSITIVE: Limits = "a number above 0", lambda value: value > 0
_NOT_NEGATIVE: Limits = "a number, 0 or more", lambda value: value >= 0
_DECAY_RATE: Limits = "0 or more and below 1", lambda value: 0 <= value < 1


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An update rule: subclass it and define ``update`` for a rule of your own (docs/own_code.md).

    All ranks apply it to the same gradient, element by element, so their weights stay identical.

    Args:
        learning_rate: the peak learning rate, above 0; a schedule scales it from step to step.

    Raises:
        InputError: when a setting is outside its range.
    """

    learning_rate: float = 0.03
    limits: ClassVar[dict[str, Limits]] = {"learning_rate": _POSITIVE}
    """For each setting, its range in words and as a test."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # would compute, and be recorded, in another way
                object.__setattr__(self, name, value.item())
        for name, (what, holds) in self.limits.items():
            value = getattr(self, name)
            is_number = isinstance(value, numbers.Real) and math.isfinite(value)
            if not (is_number and holds(value)):
                raise InputError(f"{name} is {value!r}: it must be {what}")

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the state vectors, each of the shape of ``values`` and zero at first."""
        return ()

    def update(
        self,
        values: Vector,
        grads: Vector,
        state: Mapping[str, Vector],
        learning_rate: float,
        step: int,
        scratch: Vector,
    ) -> None:
        """Apply one step, element by element: the arguments are the same chunk of whole vectors.

        Args:
            values: the parameters (n,), changed in place.
            grads: the gradient of the mean loss (n,); may be overwritten.
            state: this rule's vectors by name, each (n,), changed in place.
            learning_rate: of this step.
            step: the number of this step, from 1.
            scratch: (n,), of any content; may be overwritten.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define update, like Optimizer.update"
        )

    def portable(self) -> Optimizer:
        """An equal rule that gives the same bits on every machine; by default this one, which does
        if ``update`` uses only operations that do (docs/portable.md).
        """
        return self

    def start(self, values: Vector, trained: Sequence[slice] | None = None) -> Updater:
        """An updater for vectors of the shape and dtype of ``values``, with its state at zero, that
        changes only the ``trained`` parts of them; by default all.
        """
        return Updater(self, values, trained)


class Updater:
    """Applies one optimizer to one vector of parameters.

    Args:
        optimizer: the update rule.
        values: the parameters (n,), of which only the shape and dtype are used.
        trained: the parts of the vectors that steps change; by default all.

    Attributes:
        state: the optimizer's vectors (n,) by name, zero at first.
        steps_taken: with ``state``, all that a checkpoint needs.
    """

    def __init__(
        self, optimizer: Optimizer, values: Vector, trained: Sequence[slice] | None = None
    ) -> None:
        self.optimizer = optimizer
        parts = [slice(0, values.size)] if trained is None else trained
        self._chunks = [
            slice(start, min(start + CHUNK, part.stop))
            for part in parts
            for start in range(part.start, part.stop, CHUNK)
        ]
        self.state = {name: np.zeros_like(values) for name in optimizer.state_names}
        self.steps_taken = 0
        self._negligible = NEGLIGIBLE * float(np.finfo(values.dtype).smallest_normal)
        self._mean, self._scratch = (np.zeros_like(values[:CHUNK]) for _ in range(2))

    def restore(self, state: Mapping[str, Vector], steps_taken: int) -> None:
        """Continue from a copy of the ``state``, each vector (n,), after ``steps_taken`` steps."""
        for name, vector in self.state.items():
            vector[...] = state[name]
        self.steps_taken = steps_taken

    def step(
        self, values: Vector, grads: Vector, learning_rate: float, *, count: float = 1
    ) -> None:
        """Take one step along ``grads / count``.

        Args:
            values: the parameters (n,), changed in place.
            grads: the sum of the gradients of ``count`` examples (n,).
            learning_rate: of this step.
            count: examples in the global batch.
        """
        self.steps_taken += 1
        for chunk in self._chunks:
            size = chunk.stop - chunk.start
            mean = np.divide(grads[chunk], count, out=self._mean[:size])
            state = {name: vector[chunk] for name, vector in self.state.items()}
            scratch = self._scratch[:size]
            self.optimizer.update(
                values[chunk], mean, state, learning_rate, self.steps_taken, scratch
            )
            if self.steps_taken % FLUSH_EVERY == 0:
                for vector in state.values():
                    vector[np.abs(vector) < self._negligible] = 0


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's or the classical, and L2 weight decay.

        g <- g + weight_decay * p
        v <- momentum * v + g
        p <- p - learning_rate * (g + momentum * v   with Nesterov, else v)

    Sutskever et al. 2013, in the form of PyTorch.

    Args:
        learning_rate: the peak learning rate, above 0.
        momentum: share of the velocity v that is kept in each step, in [0, 1).
        weight_decay: factor of the parameters added to the gradient, 0 or more.
        nesterov: whether the step looks ahead along the velocity; no effect without momentum.

    Raises:
        InputError: when a setting is outside its range.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    limits = Optimizer.limits | {"momentum": _DECAY_RATE, "weight_decay": _NOT_NEGATIVE}

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(
        self,
        values: Vector,
        grads: Vector,
        state: Mapping[str, Vector],
        learning_rate: float,
        step: int,
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


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with L2 weight decay added to the gradient.

        g <- g + weight_decay * p
        m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * g^2
        p <- p - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Args:
        learning_rate: the peak learning rate, above 0; 0.001 is usual for Adam.
        weight_decay: factor of the parameters added to the gradient, 0 or more.
        beta1, beta2: shares of the moments m and v that are kept in each step, in [0, 1).
        epsilon: added to the denominator, above 0.

    Raises:
        InputError: when a setting is outside its range.
    """

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decoupled: ClassVar[bool] = False
    """Whether weight decay is applied to the parameters instead of the gradient."""
    _is_portable: ClassVar[bool] = False

    limits = Optimizer.limits | {"weight_decay": _NOT_NEGATIVE, "epsilon": _POSITIVE}
    limits |= {"beta1": _DECAY_RATE, "beta2": _DECAY_RATE}

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("first_moment", "second_moment")

    def update(
        self,
        values: Vector,
        grads: Vector,
        state: Mapping[str, Vector],
        learning_rate: float,
        step: int,
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
        if self._is_portable:
            functions.sqrt(second, out=scratch)
            scratch /= math.sqrt(1.0 - functions.power(self.beta2, step))
            started = 1.0 - functions.power(self.beta1, step)
        else:
            np.sqrt(second, out=scratch)
            scratch /= (1.0 - self.beta2**step) ** 0.5
            started = 1.0 - self.beta1**step
        scratch += self.epsilon
        np.divide(first, scratch, out=scratch)
        scratch *= learning_rate / started
        values -= scratch

    def portable(self) -> Self:
        """This rule with roots and powers that are the same on every machine."""
        made = copy.copy(self)
        object.__setattr__(made, "_is_portable", True)
        return made


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): before each step of Adam,
    ``p <- p - learning_rate * weight_decay * p``.

    Args:
        learning_rate, beta1, beta2, epsilon: as in ``Adam``.
        weight_decay: factor of ``learning_rate`` by which the parameters shrink, 0 or more.

    Raises:
        InputError: when a setting is outside its range.
    """

    decoupled: ClassVar[bool] = True


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "nesterov": partial(SGD, nesterov=True),
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
}
"""Optimizers by the name that ``--optimizer`` takes. A caller passes each the settings that it has
among learning rate, momentum and weight decay."""
