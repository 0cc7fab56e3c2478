"""Grids: rounding after which every product of matrices is exact, and so the same on every machine.

A sum of products depends on the order and grouping of its additions, which BLAS libraries choose by
processor, shape and number of threads, because each addition rounds. If nothing rounds, nothing
depends on them.

**Rounding to a grid.** Let B be a **bound**: a power of two above all magnitudes of an operand
(their maximum is the same in any order), and b the bits that the operand may have. The operand is
rounded to multiples of the spacing s = B * 2**-b, each element to the nearest: n * s with |n| <=
2**b. With the **anchor** C = 1.5 * 2**52 * s that is ``(x + C) - C`` in float64. For b up to 51,
|x| is at most 2**51 * s, so x + C is between 2**52 * s and 2**53 * s, where the float64 numbers are
exactly the multiples of s: the first operation rounds x to one (ties to even), and the second is
exact. The result is never -0.

**Exactness.** Let X be on a grid of p bits with spacing s, and Y on one of q bits with spacing t. A
product of an element of each is a multiple of s*t of magnitude up to 2**(p + q) * s*t. A sum of any
K or fewer of them, in any order and grouping, is a multiple of s*t of a magnitude up to K * 2**(p +
q) * s*t. All multiples of s*t up to 2**53 * s*t are float64 numbers. So if

    p + q + ceil(log2 K) <= 53

no multiplication, no addition and no fused multiplication and addition of a matrix product with K
terms rounds: every library, block size and number of threads gives the same numbers. (Zeros may
differ in their sign, so no later operation may depend on it.)

A product with a constant matrix whose elements are multiples of a power of two g, and whose rows
have sums of magnitudes up to S, adds ``ceil(log2 (S / g))`` bits, by the same argument.

**Range.** Magnitudes of ``LIMIT`` and more, infinities and NaN make the bound NaN, and with it the
anchor and the whole operand: the loss or gradient that they lead to is then refused on all machines
alike. Every bound is above ``TINY``, so an operand of zeros has one too. Products of two operands,
with all their terms, lie between 2**-506 and 2**253: float64 neither overflows nor underflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.floating]

PRECISION, FLOAT32_PRECISION = 53, 24
"""Bits of a float64 number, and of a float32 number."""
ROUNDED_BITS, FLOAT32_ROUNDED_BITS = PRECISION - 2, FLOAT32_PRECISION - 2
"""The most bits to which an anchor can round, in either."""
MOST_BITS = FLOAT32_PRECISION
"""Operands are float32 numbers, so they gain nothing from more."""
MOST_TERMS = 2**17
"""Longer sums are split, so that operands keep 18 bits; the parts are added in a fixed order."""
LIMIT, TINY = 2.0**100, 2.0**-200
PART = 2**15


def bits_of_terms(terms: int) -> int:
    """``ceil(log2(terms))``: the bits by which a sum of this many terms may be larger than one."""
    return (terms - 1).bit_length()


def operand_bits(*terms: int) -> int:
    """The bits of an operand of products whose sums have these numbers of terms (up to
    ``MOST_TERMS`` at a time): half of what each leaves, so that the other operands have as many.
    """
    longest = min(max(terms), MOST_TERMS)
    return min(MOST_BITS, (PRECISION - bits_of_terms(longest)) // 2)


def bits_of_transform(matrix: Floats) -> int:
    """The bits that a product with this constant matrix from the left adds."""
    granularity = 1.0
    while np.any(np.fmod(matrix, granularity)):
        granularity *= 0.5
    return math.frexp(power_above(largest_row_sum(matrix) / granularity))[1] - 1


def largest_row_sum(matrix: Floats) -> float:
    """The largest sum of the magnitudes in a row: how much products may be larger."""
    return max(math.fsum(row) for row in np.abs(matrix).tolist())


def require_exact(bits: int, other_bits: int, terms: int, precision: int = PRECISION) -> None:
    """``ValueError`` unless sums of ``terms`` products of operands of these bits are exact, in
    float64 or in numbers of another ``precision``.
    """
    needed = bits + other_bits + bits_of_terms(terms)
    if needed > precision:
        raise ValueError(
            f"sums of {terms} products of {bits} and {other_bits} bits need {needed} bits, but"
            f" {'float64' if precision == PRECISION else 'float32'} has {precision}: they are not"
            " exact"
        )


def bound_of(x: Floats) -> float:
    """The smallest power of two above all magnitudes of ``x``, and above ``TINY``; NaN if one of
    them is NaN or not below ``LIMIT``.
    """
    largest = 0.0
    for part in parts(x):
        # Comparisons with NaN are false, so it must come first.
        largest = max(float(part.max()), -float(part.min()), largest)
        if not largest < LIMIT:
            return math.nan
    return math.ldexp(1.0, math.frexp(max(largest, TINY))[1])


def anchor(bound: float, bits: int, precision: int = PRECISION) -> float:
    """C: added and then subtracted in numbers of this ``precision``, it rounds magnitudes up to
    ``bound`` to a grid of ``bits``, which must be at least 2 fewer than the precision.
    """
    return 1.5 * 2.0 ** (precision - 1 - bits) * bound


def precision_of(dtype: DTypeLike) -> int:
    """Bits of a number of this type, float32 or float64."""
    return int(np.finfo(np.dtype(dtype)).nmant) + 1


def nan_without_grid(*bounds: float) -> float:
    """0 if all ``bounds`` are numbers, else NaN: a product of their operands, to which it is added,
    becomes NaN even with a BLAS that skips products with zeros.
    """
    return 0.0 if all(math.isfinite(bound) for bound in bounds) else math.nan


def power_above(x: float) -> float:
    """The smallest power of two that is not below ``x``, which is above 0."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


def round_by(c: float, x: Floats, out: Floats) -> None:
    """Write ``x``, rounded with the anchor ``c``, to ``out``, which may be ``x``. ``c`` is one for
    the precision of ``out``.
    """
    if x.dtype != out.dtype:  # converting separately is faster
        np.copyto(out, x)
        x = out
    np.add(x, c, out=out)
    np.subtract(out, c, out=out)


def round_to_grid(x: Floats, bits: int, out: Floats) -> float:
    """Write ``x``, rounded to its own grid of ``bits``, to ``out``; return its bound."""
    bound = bound_of(x)
    c = anchor(bound, bits)
    for part, rounded in zip(parts(x), parts(out), strict=True):
        round_by(c, part, rounded)
    return bound


def parts(x: Floats) -> Iterator[Floats]:
    """Parts of about ``PART`` elements, so that passes over one find it in the caches."""
    if x.size <= PART:
        if x.size:
            yield x
        return
    axis = 1 if x.ndim == 4 else 0  # images (C, H, W, N) are stored row by row
    count = x.shape[axis]
    step = max(1, PART * count // x.size)
    for start in range(0, count, step):
        span = slice(start, start + step)
        yield x[:, span] if axis else x[span]
