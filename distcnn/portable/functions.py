"""Elementary functions with the same bits on every machine.

Only operations that IEEE 754 defines to the last bit are used (+, -, *, /, square root,
comparisons, rounding to an integer, scaling by a power of two), each in float64 and each a NumPy
call of its own, so that no compiler fuses two into one rounding. The exp, log, tanh and cos of C
libraries, of NumPy and of Python differ in their last bits between processors and versions.

Arguments are arrays or numbers. Everything is computed in float64; a float32 argument gives a
float32 result, which is rounded once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Out = NDArray[np.floating] | None
Function = Callable[[Floats], Floats]

TWO_PI, LN_2, SQRT_HALF = 6.283185307179586, 0.6931471805599453, 0.7071067811865476
LOG2_E = 1.4426950408889634
LN_2_HIGH, LN_2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""ln 2 in two parts; the first ends in enough zero bits for its product with any exponent of two
is exact (Cody and Waite 1980)."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = -746.0, 710.0
"""exp is 0 below the first and infinite above the second."""
ATANH_TERMS = [1.0 / k for k in range(23, 0, -2)]
COSINE_TERMS = [1.0 / math.factorial(k) for k in range(20, -1, -2)]
EXPM1_TERMS = [1.0 / math.factorial(k) for k in range(14, 1, -1)]


def elementwise(function: Function) -> Callable[..., Any]:
    """``function`` for arguments of any shape and floating-point type, with an ``out`` argument."""

    @wraps(function)
    def converted(x: ArrayLike, out: Out = None) -> Any:
        given = np.asarray(x)
        with np.errstate(all="ignore"):  # infinities and NaN give what IEEE 754 says, silently
            result = function(np.asarray(given, np.float64))
            if out is not None:
                out[...] = result
                return out
            return result.astype(np.float32)[()] if given.dtype == np.float32 else result[()]

    return converted


@elementwise
def exp(x: Floats) -> Floats:
    """e**x."""
    power, remainder = _split(x)
    return np.ldexp(_expm1_of_remainder(remainder) + 1.0, power)


@elementwise
def expm1(x: Floats) -> Floats:
    """e**x - 1, accurate near 0 too."""
    return _expm1(x)


@elementwise
def log(x: Floats) -> Floats:
    """Natural logarithm; -inf for 0, NaN below."""
    ordinary = (x > 0) & (x < np.inf)
    result = log_of_positive(np.where(ordinary, x, 1.0))
    special = np.where(x == 0, -np.inf, np.where(x > 0, x, np.nan))
    return np.where(ordinary, result, special)


@elementwise
def log1p(x: Floats) -> Floats:
    """log(1 + x), accurate near 0 too."""
    near_0 = np.abs(x) < 0.25
    s = np.where(near_0, x, 0.0) / (np.where(near_0, x, 0.0) + 2.0)
    return np.where(near_0, _twice_atanh(s), log(1.0 + x))


@elementwise
def tanh(x: Floats) -> Floats:
    """Hyperbolic tangent, with expm1(-2|x|) = e: -e / (e + 2)."""
    e = _expm1(np.abs(x) * -2.0)
    return np.copysign(-e / (e + 2.0), x)


@elementwise
def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    e = exp(-np.abs(x))
    result: Floats = np.where(x < 0, e, 1.0) / (e + 1.0)
    return result


@elementwise
def sqrt(x: Floats) -> Floats:
    """Square root. (float32's own is not rounded correctly on some ARM processors of 32 bits; from
    float64 it is: 53 >= 2 * 24 + 2.)
    """
    return np.sqrt(x)


@elementwise
def cos_2pi(u: Floats) -> Floats:
    """cos(2 pi u), by its Taylor series in the first quadrant. Whole turns of u are taken away
    first, which rounds nothing: the fraction of |u| is exact.
    """
    turns = np.abs(u)
    from_half = np.abs(turns - np.floor(turns) - 0.5)
    x = (0.25 - np.abs(from_half - 0.25)) * TWO_PI
    return polynomial(COSINE_TERMS, -(x * x)) * (1.0 - 2.0 * (from_half < 0.25))


def power(base: float, exponent: int) -> float:
    """``base ** exponent`` for an integer of 0 or more, by repeated squaring."""
    result, square = 1.0, float(base)
    while exponent:
        if exponent & 1:
            result *= square
        square *= square
        exponent >>= 1
    return result


def total(x: ArrayLike, axis: int = 0) -> Any:
    """The sum along ``axis`` in a fixed order: halves are added element by element until one is
    left (pairwise summation, whose error grows with the logarithm of the number of terms).
    """
    given = np.asarray(x)
    terms = np.moveaxis(np.asarray(given, np.float64), axis, 0)
    if not len(terms):
        terms = np.zeros((1, *terms.shape[1:]))
    with np.errstate(all="ignore"):
        while len(terms) > 1:
            half, odd = divmod(len(terms), 2)
            halves = terms[:half] + terms[half : 2 * half]
            terms = np.concatenate([halves, terms[-1:]]) if odd else halves
    return terms[0].astype(np.float32)[()] if given.dtype == np.float32 else terms[0][()]


def log_of_positive(x: Floats) -> Floats:
    """Natural logarithm of finite numbers above 0: 2 atanh((m - 1) / (m + 1)) + e log 2 for x =
    m * 2**e, m near 1.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < SQRT_HALF
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    return _twice_atanh((mantissa - 1.0) / (mantissa + 1.0)) + (exponent - small) * LN_2


def _twice_atanh(s: Floats) -> Floats:
    return polynomial(ATANH_TERMS, s * s) * (s * 2.0)


def _expm1(x: Floats) -> Floats:
    power, remainder = _split(x)
    below = _expm1_of_remainder(remainder)
    result: Floats = np.ldexp(below, power) + (np.ldexp(1.0, power) - 1.0)
    return result


def _split(x: Floats) -> tuple[NDArray[np.int32], Floats]:
    """n and r of x = n log 2 + r, |r| <= log(2) / 2."""
    x = np.minimum(np.maximum(x, SMALLEST_EXPONENT), LARGEST_EXPONENT)
    n = np.rint(x * LOG2_E)
    remainder = x - n * LN_2_HIGH
    remainder -= n * LN_2_LOW
    return np.where(np.isfinite(n), n, 0.0).astype(np.int32), remainder


def _expm1_of_remainder(r: Floats) -> Floats:
    """e**r - 1 = r + r**2 (1/2! + r/3! + ...) for |r| <= log(2) / 2."""
    return r * r * polynomial(EXPM1_TERMS, r) + r


def polynomial(terms: Sequence[float], z: Floats) -> Floats:
    """By Horner's rule; ``terms`` from the highest power of ``z`` to the constant."""
    p = np.full_like(z, terms[0])
    for term in terms[1:]:
        p *= z
        p += term
    return p
