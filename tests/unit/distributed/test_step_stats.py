"""The stats: the sum of losses is correct to float32 and beyond, whatever the number, sizes and
order of the terms.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.distributed import STATS_SIZE, RangeError, StepStats

LOSSES = st.floats(0, 2.0**30) | st.floats(0, 1e-6) | st.floats(0, 20, width=32)


def summed(losses: list[float], num_terms: int, ranks: list[int]) -> float:
    """The sum of ``losses``, each added by the rank that ``ranks`` assigns to it."""
    sums = np.zeros((max(ranks, default=0) + 1, STATS_SIZE))
    tallies = [StepStats(of_rank, num_terms) for of_rank in sums]
    for loss, rank in zip(losses, ranks, strict=True):
        tallies[rank].add(loss, 1, 1)
    total = sums[::-1].sum(axis=0)
    assert StepStats(total, num_terms).totals().examples == len(losses)
    return StepStats(total, num_terms).totals().loss_sum


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    data=st.data(),
    losses=st.lists(LOSSES, min_size=1, max_size=12),
    num_terms=st.integers(12, 10**6),
)
def test_any_order_and_any_ranks_give_the_same_bits_and_the_true_sum(
    data: st.DataObject, losses: list[float], num_terms: int
) -> None:
    loss_sum = summed(losses, num_terms, [0] * len(losses))
    ranks = data.draw(st.lists(st.integers(0, 3), min_size=len(losses), max_size=len(losses)))
    assert summed(data.draw(st.permutations(losses)), num_terms, ranks) == loss_sum
    error = abs(Fraction(loss_sum) - sum(map(Fraction, losses)))
    assert error <= Fraction(loss_sum) / 2**52 + Fraction(1, 2**60)


@pytest.mark.parametrize("loss", [1e-12, 3e-7, 0.0763, 2.302585])
@pytest.mark.parametrize("num_terms", [8, 10_000, 1_000_000])
def test_many_small_losses_are_not_rounded_away(num_terms: int, loss: float) -> None:
    terms = min(num_terms, 10_000)
    assert summed([loss] * terms, num_terms, [0] * terms) == pytest.approx(loss * terms, rel=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e12])
def test_a_loss_that_cannot_be_added_is_refused_and_counts_nothing(bad: float) -> None:
    stats = StepStats(np.zeros(STATS_SIZE), 8)
    with pytest.raises(RangeError):
        stats.add(bad, 1, 1)
    stats.fail()
    assert (stats.totals().examples, stats.totals().failures) == (0, 1)
