"""The exact sum: gradients of all shards added so that every order and every grouping gives the
same bits.

Floating-point addition is not associative, because each addition rounds. It is made so by rounding
*before* adding (the pre-rounding of Demmel and Nguyen, "Fast reproducible floating-point
summation", 2013), to multiples of one fixed power of two.

Let L = 2**l be the largest magnitude that a term may have, S >= 2 a power of two and at least the
number of terms (shards), and R = L*S. Binary64 numbers in [R, 2R] are multiples of q = R * 2**-52.

1. Rounding. For |g| <= L <= R/2, ``t = g + 1.5*R`` lies in [R, 2R], so t is 1.5*R + g rounded to
   the nearest multiple of q, and ``t - 1.5*R`` is exact (both are multiples of q, their difference
   is small): what is left is g rounded to a multiple of q, of magnitude at most L (itself a
   multiple of q). It depends on g alone, never on what was added before.
2. Adding. Every multiple of q of magnitude up to 2R is a binary64 number (2R = 2**53 * q). Each
   partial sum, of whichever terms in whichever order, is a multiple of q of magnitude at most S*L =
   R: it is represented exactly and no addition rounds. So every tree of additions gives the same
   number, and any MPI_Allreduce may be used.
3. Pairs. ``h - 1.5*R`` is h rounded to a multiple of q, minus 1.5*R; ties round as in item 1,
   because 1.5*R is an even multiple. So ``(g + 1.5*R) + (h - 1.5*R)`` is the sum of the two rounded
   terms, and 1.5*R need not be subtracted from each. For L = 1 and S = 2 it is (g + 3) + (h - 3).
   Between the two, the partial sum is 1.5*R too large. It stays within [R, 2R] if the magnitude of
   the terms' own sum is at most R/2.
4. Several grids. What rounding takes from a term, ``g - rounded(g)``, is at most q/2 and is itself
   a binary64 number. It may be added by the same rules on a second grid whose limit is q/2, what is
   left after that on a third, and so on. Each grid's sum is exact, so the grids together hold the
   sum to the last grid's spacing (``StepStats``).

``ExactSum`` adds one vector after another, or several at once (and in pairs); ``StepStats`` adds
losses on several grids.

Beyond L, and for NaN and Inf, the sum is refused. The default L = 2**16 leaves, for 8 shards,
multiples of 2**-33 for the sum over all examples of a step: divided by 256 of them, 5e-13, below
what float32 resolves in any mean gradient above 8e-6.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, cycle

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.floating]

CHUNK = 65536
"""Elements rounded at a time: the scratch (512 KiB) stays in the nearest caches."""
UNDERFLOW = 2.0**-70
"""This is above every float32 whose square underflows to 0."""
LOSS_GRIDS = 3
"""Grids of the losses' exact sum. The last one's spacing is 2**-119 for 8 terms and 2**-68 for a
million, so nothing that float32 holds of a mean loss is lost; a single grid has 2**-19 and 2**-2.
"""
CORRECT, EXAMPLES, FAILURES, STOPS = range(LOSS_GRIDS, LOSS_GRIDS + 4)
"""Indices of the counts in ``StepStats.sums``, which begins with the losses."""
STATS_SIZE = LOSS_GRIDS + 4
LOSS_LIMIT = 2.0**30
"""The largest loss of one microbatch that is added."""


class RangeError(ArithmeticError):
    """A term that cannot be added exactly: NaN, or beyond ``limit``."""

    def __init__(self, index: int, value: float, limit: float) -> None:
        super().__init__(f"element {index} is {value:g}, beyond the exact sum's limit of {limit:g}")
        self.index, self.value, self.limit = index, value, limit


def check_terms(terms: FloatVector, limit: float) -> float:
    """A magnitude up to ``limit`` that no term exceeds; ``RangeError`` for the first that does."""
    with np.errstate(over="ignore", invalid="ignore"):
        # The quick way: if the sum of squares is within limit**2 / 2, no term exceeds the limit,
        # even after rounding. NaN fails the comparison.
        twice_the_squares = 2 * float(np.vdot(terms, terms))
        if twice_the_squares <= limit * limit:
            return math.sqrt(twice_the_squares) + UNDERFLOW
    if terms.size and not (terms.max() <= limit and terms.min() >= -limit):
        index = int(np.argmin(np.abs(terms) <= limit))
        raise RangeError(index, float(terms[index]), limit)
    return limit


def grid_anchors(num_terms: int, limit: float, grids: int = 1) -> list[float]:
    """1.5*R of each grid for ``num_terms`` terms of magnitudes up to ``limit``, a power of two."""
    if math.frexp(limit)[0] != 0.5 or num_terms < 1:
        raise ValueError(
            f"limit (={limit}) must be a power of two and num_terms (={num_terms}) at least 1"
        )
    factor = 2.0 ** max(1, (num_terms - 1).bit_length())  # S; the next grid's limit is q/2
    return [1.5 * limit * factor * (factor * 2.0**-53) ** grid for grid in range(grids)]


class ExactSum:
    """The sum of at most ``num_terms`` vectors, with no element of a magnitude beyond ``limit``, a
    power of two. Sums of several ranks' totals are exact too.
    """

    dtype: type[np.floating] = np.float64

    def __init__(self, num_terms: int, limit: float) -> None:
        self.num_terms, self.limit = num_terms, limit
        (self._anchor,) = grid_anchors(num_terms, limit)
        self._total, self._rounded = np.empty(CHUNK), np.empty(CHUNK)

    def add(self, total: FloatVector, terms: FloatVector, fresh: bool = False) -> None:
        """Add ``terms`` to ``total``, or with ``fresh`` replace it; all or nothing."""
        check_terms(terms, self.limit)
        for start in range(0, terms.size, CHUNK):
            into = total[start : start + CHUNK]
            rounded = into if fresh else self._rounded[: into.size]
            np.copyto(rounded, terms[start : start + CHUNK])
            rounded += self._anchor
            rounded -= self._anchor
            if not fresh:
                into += rounded

    def sum_of(self, ranks: Iterable[Iterable[FloatVector]], bound: float) -> FloatVector:
        """The sum of all vectors of all ``ranks``, at most ``CHUNK`` elements, until the next call.

        No partial sum of magnitudes exceeds ``bound``, which decides whether they may go in pairs.
        """
        first, *others = chain.from_iterable(ranks)
        anchor, size = self._anchor, first.size
        total, rounded = self._total[:size], self._rounded[:size]
        np.copyto(total, first)
        total += anchor
        if bound <= anchor / 3:  # R/2: in pairs
            for term, signed_anchor in zip(others, cycle((-anchor, anchor)), strict=False):
                np.copyto(rounded, term)
                rounded += signed_anchor
                total += rounded
            if len(others) % 2 == 0:  # the last term has no partner
                total -= anchor
            return total
        total -= anchor
        for term in others:
            np.copyto(rounded, term)
            rounded += anchor
            rounded -= anchor
            total += rounded
        return total


@dataclass(frozen=True)
class Totals:
    """Sums over all examples of a step, or of a test, on all ranks."""

    loss_sum: float
    correct: int
    """Examples whose class was predicted correctly."""
    examples: int
    failures: int
    """Shards of a step, or blocks of a test, that could not be added."""
    stops: int = 0
    """Ranks that should stop."""

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.loss_sum / self.examples


class StepStats:
    """Counts of at most ``num_terms`` microbatches of all ranks, in ``sums`` (STATS_SIZE,): losses
    on several grids, then integers.
    """

    def __init__(self, sums: NDArray[np.float64], num_terms: int) -> None:
        self.sums = sums
        self._losses = sums[:LOSS_GRIDS]
        self._anchors = grid_anchors(num_terms, LOSS_LIMIT, LOSS_GRIDS)

    def add(self, loss_sum: float, correct: int, examples: int) -> None:
        """Add one microbatch's; ``RangeError`` (and nothing added) when its loss cannot be."""
        if not abs(loss_sum) <= LOSS_LIMIT:
            raise RangeError(0, loss_sum, LOSS_LIMIT)
        for grid, anchor in enumerate(self._anchors):
            rounded = loss_sum + anchor - anchor
            self._losses[grid] += rounded
            loss_sum -= rounded
        self.sums[CORRECT] += correct
        self.sums[EXAMPLES] += examples

    def fail(self) -> None:
        """Count one failure, which every rank then sees in the sum."""
        self.sums[FAILURES] += 1

    def ask_to_stop(self) -> None:
        """Count this rank as one that should stop."""
        self.sums[STOPS] += 1

    def totals(self) -> Totals:
        return Totals(math.fsum(self._losses), *map(int, self.sums[LOSS_GRIDS:].tolist()))
