"""The exact sum: gradients of all shards added so that every order and every grouping gives the same bits.

Floating-point addition is not associative, because each addition rounds. It is made so by rounding *before* adding (the
pre-rounding of Demmel and Nguyen, "Fast reproducible floating-point summation", 2013), to multiples of one fixed power of two.

Let R = 2**e be the range and S the number of shards. Binary64 numbers in [R, 2R) are the multiples of q = R * 2**-52.

1. Rounding. For |g| <= R/2, ``t = g + 1.5*R`` lies in [R, 2R], so t is 1.5*R + g rounded to the nearest multiple of q, and
   ``t - 1.5*R`` is exact (both are multiples of q, the difference is below 2R): what is left is g rounded to a multiple of q.
   It hangs on g alone, never on what was added before.
2. Adding. Every multiple of q of magnitude up to 2R is a binary64 number (2R = 2**53 * q). If each of S rounded terms is at most R/S,
   then each partial sum, of whichever terms in whichever order, is a multiple of q of magnitude at most R: it is represented
   exactly and no addition rounds. So every tree of additions gives the same number, and any MPI_Allreduce may be used.

Hence one bound on each shard's gradient, ``|g| <= min(R/2, R/S)``. Beyond it, and for NaN and Inf, the sum is refused.
The default range 2**12 leaves multiples of 2**-40, about 1e-12: finer than float32 for every gradient above 2**-16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.floating]
DoubleVector = NDArray[np.float64]

CHUNK = 16384
"""Elements rounded at a time: the scratch stays in the nearest caches."""


class RangeError(ArithmeticError):
    """A term that cannot be added exactly: its ``index`` and ``value``, and the ``limit`` it exceeds (NaN and Inf exceed any)."""

    def __init__(self, index: int, value: float, limit: float) -> None:
        super().__init__(f"element {index} is {value:g}, beyond the exact sum's limit of {limit:g}")
        self.index, self.value, self.limit = index, value, limit


def limit_for(sum_range: float, num_terms: int) -> float:
    """The largest magnitude that each of ``num_terms`` terms may have (proof above)."""
    return sum_range / max(num_terms, 2)


def check_terms(terms: FloatVector, limit: float) -> None:
    """Raise ``RangeError`` for the first of ``terms`` that is NaN or of a magnitude beyond ``limit``."""
    if terms.size and not (terms.max() <= limit and terms.min() >= -limit):  # written so that NaN fails it
        index = int(np.argmin(np.abs(terms) <= limit))
        raise RangeError(index, float(terms[index]), limit)


class ExactSum:
    """Adds up vectors of ``size`` elements, at most ``num_terms`` of them over all ranks, in ``total`` (float64).

    ``sum_range`` is R, a power of two. Sums of ``total`` over ranks are exact too.
    """

    def __init__(self, total: DoubleVector, num_terms: int, sum_range: float = 2.0**12) -> None:
        mantissa, _ = np.frexp(sum_range)
        if mantissa != 0.5 or num_terms < 1:
            raise ValueError(f"sum_range (={sum_range}) must be a power of two and num_terms (={num_terms}) at least 1")
        self.total = total
        self.limit = limit_for(sum_range, num_terms)
        self._anchor = 1.5 * sum_range
        self._scratch = np.empty(min(CHUNK, total.size))

    def clear(self) -> None:
        """Start a new sum."""
        self.total.fill(0)

    def add(self, terms: FloatVector) -> None:
        """Add one shard's vector. ``RangeError`` (and nothing added) when an element cannot be added exactly."""
        check_terms(terms, self.limit)
        for start in range(0, terms.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            rounded, total = self._scratch[: terms[chunk].size], self.total[chunk]
            np.copyto(rounded, terms[chunk])
            rounded += self._anchor
            rounded -= self._anchor
            total += rounded
