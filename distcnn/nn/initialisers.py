"""How parameters begin. An initialiser is a function ``(rng, shape, fan_in, fan_out) -> float64
array`` of that shape.

In training, ``rng`` is a NumPy ``Generator`` whose ``random``, ``uniform``, ``standard_normal`` and
``normal`` give the same bits with every NumPy (``distcnn.random_streams.PortableGenerator``). Those
of its other methods may change with NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from distcnn.nn.layer import Array, Initialiser, Shape


def as_initialiser(name: str, value: Initialiser) -> Initialiser:
    """``value``, if it can be called; else ``ValueError``."""
    if not callable(value):
        raise ValueError(
            f"{name} (={value!r}) must be a function (rng, shape, fan_in, fan_out), such as"
            " distcnn.nn.he_normal"
        )
    return value


def he_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Normal with standard deviation ``sqrt(2 / fan_in)``: keeps the variance through ReLU layers
    (He et al. 2015, eq. 10).
    """
    return rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)


def glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """Uniform in +-``sqrt(6 / (fan_in + fan_out))``: for tanh and sigmoid layers (Glorot and Bengio
    2010, eq. 16).
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class uniform:  # used like the functions around it
    """Uniform in [-bound, bound]; 1e-4 is what the hand-written CNN tutorials use."""

    bound: float = 1e-4

    def __call__(self, rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
        """Draw an array of ``shape``."""
        return rng.uniform(-self.bound, self.bound, shape)

    def __repr__(self) -> str:
        return f"uniform({self.bound})"


def zeros(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """All zero: for biases. (Zero weights would keep all units of a layer equal for ever.)"""
    return np.zeros(shape)
