"""The parameters of a network, one flat vector with named views of it, and their initialisers.

An initialiser is a function ``(rng, shape, fan_in, fan_out) -> array``. In training, the methods
``random``, ``uniform``, ``standard_normal`` and ``normal`` of ``rng`` give the same bits with every
NumPy; its others may change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from distcnn.errors import ArgumentError
from distcnn.nn.kernels.arena import allocate
from distcnn.nn.layer import Array, Initialiser, Parameter, Shape


class Parameters:
    """The values of a network's parameters, in the order of its layers; zeros until they are drawn
    or loaded. Any number of plans may share them. ``Sequential.initialise`` makes them.

    Args:
        layer_names: of all layers, in order.
        described: each parameter's description by its full name, in order.
        dtype: of the values, float32 or float64.

    Attributes:
        values: all values, a flat vector that cannot be written to: see ``assign`` and
            ``changing``. Its elements may change, but it is never replaced.
        version: the number of changes so far. Plans that keep what they derive from the values
            compare it.
        described: each parameter's description by its full name, such as ``conv1.weight``.
        slices: which part of a flat vector each parameter is.
        layer_starts: for each layer, the index of its first element in a flat vector (that of the
            next layer's where it has no parameters).
    """

    def __init__(
        self, layer_names: Sequence[str], described: Mapping[str, Parameter], dtype: DTypeLike
    ) -> None:
        self.described, size = described, 0
        self.slices: dict[str, slice] = {}
        self.layer_starts: list[int] = []
        for layer_name in layer_names:
            self.layer_starts.append(size)
            for name, parameter in described.items():
                if name.startswith(f"{layer_name}."):
                    start, size = size, size + math.prod(parameter.shape)
                    self.slices[name] = slice(start, size)
        self._values: Array = allocate((size,), dtype)
        self.values = self._values.view()
        self.values.flags.writeable = False
        self.version = 0

    @contextmanager
    def changing(self) -> Iterator[Array]:
        """The flat vector of all values, to be written to until the end of the block."""
        try:
            yield self._values
        finally:
            self.version += 1

    def assign(self, values: ArrayLike | Mapping[str, ArrayLike]) -> None:
        """Set all values, given as a flat vector, or those of the parameters that are named."""
        with self.changing() as flat:
            if isinstance(values, Mapping):
                named = self.named(flat)
                for name, array in values.items():
                    named[name][...] = array
            else:
                flat[...] = values

    def named(self, flat: Array | None = None) -> dict[str, Array]:
        """Each parameter's part of ``flat``, a view in PyTorch's shape; by default of ``values``.

        ``flat`` is any vector of the size of ``values``, such as a gradient, or that of
        ``changing``, whose views can be written to.
        """
        flat = self.values if flat is None else flat
        return {
            name: flat[span].reshape(self.described[name].shape)
            for name, span in self.slices.items()
        }

    def parameter_at(self, index: int) -> str:
        """The name of the parameter that holds element ``index`` of a flat vector."""
        for name, span in self.slices.items():
            if span.start <= index < span.stop:
                return name
        raise IndexError(f"index (={index}) must be 0 to {self.values.size - 1}")

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Draw every parameter's first values, in order, from ``rng``; return these parameters."""
        with self.changing() as flat:
            for name, values in self.named(flat).items():
                values[...] = self._drawn(name, rng)
        return self

    def _drawn(self, name: str, rng: np.random.Generator) -> Array:
        """The first values of a parameter."""
        described = self.described[name]
        drawn = described.initialiser(rng, described.shape, described.fan_in, described.fan_out)
        # Broadcasting would repeat values that should differ.
        if np.shape(drawn) not in (described.shape, ()):
            raise ArgumentError(
                f"the initialiser of {name} returned an array of shape {np.shape(drawn)}, not"
                f" {described.shape}"
            )
        return drawn


def as_initialiser(name: str, value: Initialiser) -> Initialiser:
    """``value``, if it can be called."""
    if not callable(value):
        raise ValueError(
            f"{name} (={value!r}) must be a function (rng, shape, fan_in, fan_out), such as"
            " distcnn.nn.he_normal"
        )
    return value


def he_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Normal with variance ``2 / fan_in``: for ReLU layers (He et al. 2015, eq. 10)."""
    return rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)


def glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Uniform with variance ``2 / (fan_in + fan_out)``: for tanh and sigmoid layers (Glorot and
    Bengio 2010, eq. 16).
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class uniform:  # used like the functions around it
    """Uniform in [-bound, bound]; 1e-4 is what the hand-written CNN tutorials use."""

    bound: float = 1e-4

    def __call__(self, rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
        return rng.uniform(-self.bound, self.bound, shape)

    def __repr__(self) -> str:
        return f"uniform({self.bound})"


def zeros(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """All zero: for biases. (Zero weights would keep all units of a layer equal for ever.)"""
    return np.zeros(shape)
