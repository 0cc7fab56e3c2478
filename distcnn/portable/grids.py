"""Grids: rounding after which every product of matrices is exact, and so the same on every machine.

A sum of products depends on the order and grouping of its additions, which BLAS libraries choose by
processor, shape and number of threads, because each addition rounds. If nothing rounds, nothing
depends on them.

**Rounding to a grid.** Let m = max |x| over an operand (a maximum is the same in any order), 2**e
the smallest power of two above m, and b the bits that the operand may have. The operand is rounded
to multiples of the spacing s = 2**(e - b), each element to the nearest: n * s with |n| <= 2**b.
With C = 1.5 * 2**52 * s that is ``(x + C) - C`` in binary64: |x| <= 2**b * s <= 2**51 * s for b <=
51, so x + C lies in [2**52 * s, 2**53 * s], where binary64 numbers are the multiples of s: the
first operation rounds x to one (ties to even), and the second is exact. The result is never -0.

**Exactness.** Let a be on a grid of p bits with spacing s, and b on one of q bits with spacing t. A
product of an element of each is a multiple of s*t of magnitude up to 2**(p + q) * s*t. A sum of any
K or fewer of them, in any order and grouping, is a multiple of s*t of a magnitude up to K * 2**(p +
q) * s*t. All multiples of s*t up to 2**53 * s*t are binary64 numbers. So if

    p + q + ceil(log2 K) <= 53

no multiplication, no addition and no fused multiplication and addition of a matrix product with K
terms rounds: every library, block size and number of threads gives the same numbers. (Zeros may
differ in their sign, so no later operation may depend on it.)

**Range.** Magnitudes of ``LIMIT`` and more, infinities and NaN make the whole operand NaN: the loss
or gradient that they lead to is then refused on all machines alike. Below ``TINY`` grids become no
finer, so an operand of zeros has one too. Products of two operands, with all their terms, lie
between 2**-506 and 2**253: there is no overflow or underflow.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRECISION = 53
"""Bits of a binary64 number."""
MOST_BITS = 22
"""More bits an operand gain nothing: float32 has 24."""
FEWEST_BITS = 16
LIMIT, TINY = 2.0**100, 2.0**-200


def bits_of_terms(terms: int) -> int:
    """``ceil(log2(terms))``: the bits by which a sum of this many terms may be larger than one."""
    return (terms - 1).bit_length()


def require_exact(bits: int, other_bits: int, terms: int) -> None:
    """``ValueError`` unless sums of ``terms`` products of operands of these bits are exact."""
    needed = bits + other_bits + bits_of_terms(terms)
    if needed > PRECISION:
        raise ValueError(
            f"sums of {terms} products of {bits} and {other_bits} bits need {needed} bits, but"
            f" binary64 has {PRECISION}: they are not exact"
        )


def anchor(spacing: float) -> float:
    """C: what to add and then to subtract to round to multiples of ``spacing``, a power of two."""
    return 1.5 * 2.0**52 * spacing


def largest_magnitude(x: NDArray[np.floating]) -> float:
    """max |x|; NaN if any element is NaN, 0 if there are none."""
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def exponent_of(largest: float) -> int | None:
    """e with ``largest < 2**e``, at least that of ``TINY``; None for what has no grid."""
    if not largest < LIMIT:
        return None
    return math.frexp(max(largest, TINY))[1]


def round_to_spacing(x: Floats, spacing: float) -> Floats:
    """Round ``x`` to multiples of ``spacing``, in place; magnitudes up to 2**51 spacings."""
    c = anchor(spacing)
    x += c
    x -= c
    return x


def round_to_grid(x: Floats, bits: int) -> float:
    """Round ``x`` to its grid of ``bits``, in place; return the spacing (NaN, as ``x`` then is, for
    what has no grid).
    """
    exponent = exponent_of(largest_magnitude(x))
    if exponent is None:
        x.fill(np.nan)
        return math.nan
    spacing = math.ldexp(1.0, exponent - bits)
    round_to_spacing(x, spacing)
    return spacing
