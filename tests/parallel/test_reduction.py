"""The two reductions: what they add up, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distcnn.parallel import REDUCTIONS, ForegroundSums, RangeError, SerialCommunicator


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_gradients_and_counts_are_summed(name: str) -> None:
    reduction = REDUCTIONS[name](3, 2, 4096.0)
    for _ in range(2):  # a second step begins from zero
        reduction.clear()
        reduction.add(np.array([1, 2, 3], np.float32))
        reduction.tally.add(1.5, 4, 5)
        reduction.add(np.array([0.5, -2, 1], np.float32))
        reduction.tally.add(0.25, 1, 3)
        assert reduction.allreduce(SerialCommunicator()).tolist() == [1.5, 0, 4]
        totals = reduction.tally.totals()
        assert (totals.loss_sum, totals.correct, totals.examples, totals.failures) == (1.75, 5, 8, 0)
        assert totals.loss == 1.75 / 8


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_is_refused(name: str, bad: float) -> None:
    with pytest.raises(RangeError):
        REDUCTIONS[name](2, 2, 4096.0).add(np.array([0, bad], np.float32))


def test_only_the_exact_reduction_has_a_narrow_range() -> None:
    large = np.array([1e6, 0], np.float32)
    REDUCTIONS["fast"](2, 2, 4096.0).add(large)
    with pytest.raises(RangeError):
        REDUCTIONS["exact"](2, 2, 4096.0).add(large)


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_nothing_of_the_step_before_is_left_in_a_sum(name: str) -> None:
    reduction, buckets = REDUCTIONS[name](4, 2, 4096.0), [slice(2, 4), slice(0, 2)]
    before, now, bad = np.full(4, 7, np.float32), np.array([1, 2, 3, 4], np.float32), np.array([1, math.nan, 1, 1], np.float32)

    def total() -> list[float]:
        sums = ForegroundSums(lambda values: None)
        for bucket in buckets:
            reduction.start(bucket, sums)
        return [float(each) for each in reduction.finish(sums)]

    for bucket in buckets:
        reduction.add(before, bucket)
    assert total() == [7, 7, 7, 7]

    reduction.clear()
    reduction.add(bad, buckets[0])
    with pytest.raises(RangeError):
        reduction.add(bad, buckets[1])
    for bucket in buckets:  # the first shard that can be added begins
        reduction.add(now, bucket)
    assert total() == [1, 2, 4, 5]

    reduction.clear()
    reduction.add(now, buckets[0])
    assert total() == [0, 0, 3, 4]  # nothing was added to the other bucket
    reduction.clear()
    assert reduction.allreduce(SerialCommunicator()).tolist() == [0, 0, 0, 0]
