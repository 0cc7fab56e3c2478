"""How parameters begin. An initialiser is a function ``(rng, shape, fan_in, fan_out) -> float64
array`` of that shape.

In training, ``rng`` is a NumPy ``Generator`` whose ``random``, ``uniform``, ``standard_normal`` and
``normal`` give the same bits with every NumPy (``distcnn.random_streams.PortableGenerator``). Those
of its other methods may change with NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from distcnn.nn.layer import Array, Initialiser, Shape


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


def uniform(bound: float = 1e-4) -> Initialiser:
    """Uniform in [-bound, bound]; 1e-4 is what the hand-written CNN tutorials use."""

    def initialise(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
        return rng.uniform(-bound, bound, shape)

    return initialise


def zeros(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> Array:
    """All zero: for biases. (Zero weights would keep all units of a layer equal for ever.)"""
    return np.zeros(shape)
