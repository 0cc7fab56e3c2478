"""Sine and cosine of any argument, with the same bits on every machine (see ``functions``)."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from distcnn.portable.functions import elementwise, polynomial

Floats = NDArray[np.float64]

TWO_OVER_PI = 0.6366197723675814
PI_2_PARTS = 1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21
"""pi / 2 in three parts; the first two have 33 bits, so their products with integers of 20 bits are
exact (Cody and Waite 1980)."""
LARGEST_IN_PARTS = 2.0**20
"""Larger arguments are reduced one by one, with integers."""
SINE_TERMS = [(-1) ** (k // 2) / math.factorial(k) for k in range(17, 2, -2)]
COSINE_TERMS = [(-1) ** (k // 2) / math.factorial(k) for k in range(18, 3, -2)]
BITS = 1200
"""Of pi: more than the exponent and the digits of any argument take up."""


@elementwise
def sin(x: Floats) -> Floats:
    """Sine, of radians."""
    return np.where(x == 0, x, _sine(x, quarter_turns=0))


@elementwise
def cos(x: Floats) -> Floats:
    """Cosine, of radians."""
    return _sine(x, quarter_turns=1)


def _sine(x: Floats, quarter_turns: int) -> Floats:
    """sin(x + quarter_turns * pi / 2); NaN where x is not finite."""
    n, r = _reduced(x)
    n = (n + quarter_turns) % 4.0
    z = r * r
    sine = polynomial(SINE_TERMS, z) * z * r + r
    cosine = polynomial(COSINE_TERMS, z) * z * z - 0.5 * z + 1.0
    result: Floats = np.where(n % 2.0 == 1.0, cosine, sine)
    return np.where(n >= 2.0, -result, result) + (x - x)


def _reduced(x: Floats) -> tuple[Floats, Floats]:
    """n (modulo 4) and r of x = n pi / 2 + r, |r| <= pi / 4."""
    small = np.abs(x) <= LARGEST_IN_PARTS
    r = np.where(small, x, 0.0)
    n = np.rint(r * TWO_OVER_PI)
    for part in PI_2_PARTS:
        r = r - n * part
    n, r = np.asarray(n), np.asarray(r)
    for index in map(tuple, np.argwhere(~small & np.isfinite(x))):
        n[index], r[index] = _reduced_exactly(float(x[index]))
    return n, r


def _reduced_exactly(x: float) -> tuple[float, float]:
    """The same for one number of any size, in integers."""
    numerator, denominator = x.as_integer_ratio()
    half_pi = _pi() // 2
    scaled = (numerator << BITS) // denominator
    n = (2 * scaled + half_pi) // (2 * half_pi)
    return float(n % 4), (scaled - n * half_pi) / (1 << BITS)


@cache
def _pi() -> int:
    """pi * 2**BITS, by Machin's formula of 1706."""
    return (16 * _arctan_of_inverse(5) - 4 * _arctan_of_inverse(239)) >> 64


def _arctan_of_inverse(k: int) -> int:
    """arctan(1 / k) * 2**(BITS + 64)."""
    power, total, i = (1 << (BITS + 64)) // k, 0, 0
    while power:
        total += (-1) ** i * (power // (2 * i + 1))
        power //= k * k
        i += 1
    return total
