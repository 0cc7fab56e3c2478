"""The reductions: what they add up, what they refuse, and the one contract of all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distcnn.distributed import (
    REDUCTIONS,
    ForegroundSums,
    RangeError,
    Reduction,
    SerialCommunicator,
    keep_gradients,
)
from distcnn.distributed.reduction import MisuseError


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_gradients_and_counts_are_summed(name: str) -> None:
    reduction = REDUCTIONS[name](3, 2, 4096.0)
    for _ in range(2):  # a second step begins from zero
        reduction.clear()
        reduction.place()
        reduction.add(np.array([1, 2, 3], np.float32))
        reduction.tally.add(1.5, 4, 5)
        reduction.place()
        reduction.add(np.array([0.5, -2, 1], np.float32))
        reduction.tally.add(0.25, 1, 3)
        assert reduction.allreduce(SerialCommunicator()).tolist() == [1.5, 0, 4]
        totals = reduction.tally.totals()
        assert (totals.loss_sum, totals.correct, totals.examples, totals.failures) == (
            1.75,
            5,
            8,
            0,
        )
        assert totals.loss == 1.75 / 8


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_is_refused(name: str, bad: float) -> None:
    reduction = REDUCTIONS[name](2, 2, 4096.0)
    reduction.place()
    with pytest.raises(RangeError):
        reduction.add(np.array([0, bad], np.float32))


def test_only_the_exact_reduction_has_a_narrow_range() -> None:
    large = np.array([1e6, 0], np.float32)
    exact, fast = (REDUCTIONS[name](2, 2, 4096.0) for name in ("exact", "fast"))
    fast.place()
    fast.add(large)
    exact.place()
    with pytest.raises(RangeError):
        exact.add(large)


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_nothing_of_the_step_before_is_left_in_a_sum(name: str) -> None:
    reduction, buckets = REDUCTIONS[name](4, 2, 4096.0), [slice(2, 4), slice(0, 2)]
    before, now, bad = (
        np.full(4, 7, np.float32),
        np.array([1, 2, 3, 4], np.float32),
        np.array([1, math.nan, 1, 1], np.float32),
    )

    def total() -> list[float]:
        sums = ForegroundSums(lambda values: None)
        for bucket in buckets:
            reduction.start(bucket, sums)
        return [float(each) for each in reduction.finish(sums)]

    reduction.place()
    for bucket in buckets:
        reduction.add(before, bucket)
    assert total() == [7, 7, 7, 7]

    reduction.clear()
    reduction.place()
    reduction.add(bad, buckets[0])
    with pytest.raises(RangeError):
        reduction.add(bad, buckets[1])
    reduction.place()
    for bucket in buckets:  # the first shard that can be added begins
        reduction.add(now, bucket)
    assert total() == [1, 2, 4, 5]

    reduction.clear()
    reduction.place()
    reduction.add(now, buckets[0])
    assert total() == [0, 0, 3, 4]  # nothing was added to the other bucket
    reduction.clear()
    assert reduction.allreduce(SerialCommunicator()).tolist() == [0, 0, 0, 0]


# -- the contract of all reductions

SIZE, WHOLE = 3, slice(0, 3)


@pytest.fixture(params=["exact", "fast", "kept exact", "kept fast"])
def reduction(request: pytest.FixtureRequest) -> Reduction:
    """Each of them for two shards of ``SIZE`` elements, in a step that begins."""
    *kept, name = request.param.split()
    made = (
        keep_gradients(name, SIZE, 2, 4096.0, SerialCommunicator())
        if kept
        else REDUCTIONS[name](SIZE, 2, 4096.0)
    )
    assert made is not None
    made.clear()
    return made


def place(reduction: Reduction, gradient: list[float]) -> np.ndarray:
    """The next shard's gradient where it must lie."""
    placed = reduction.place()
    grads = np.empty(SIZE, np.float32) if placed is None else placed
    grads[:] = gradient
    return grads


def total(reduction: Reduction) -> list[float]:
    sums = ForegroundSums(lambda values: None)
    reduction.start(WHOLE, sums)
    return [float(each) for each in reduction.finish(sums)]


def test_what_is_added_is_what_is_summed(reduction: Reduction) -> None:
    reduction.add(place(reduction, [1, 2, 3]))
    reduction.add(place(reduction, [10, 20, 30]))
    assert total(reduction) == [11, 22, 33]


def test_a_shard_that_is_left_out_counts_as_zero(reduction: Reduction) -> None:
    for _ in range(2):
        reduction.add(place(reduction, [5, 5, 5]))
    assert total(reduction) == [10, 10, 10]
    reduction.clear()
    reduction.add(place(reduction, [1, 2, 3]))
    assert total(reduction) == [1, 2, 3]
    reduction.clear()
    with pytest.raises(RangeError):
        reduction.add(place(reduction, [1, math.nan, 3]))
    reduction.add(place(reduction, [1, 2, 3]))
    assert total(reduction) == [1, 2, 3]
    reduction.clear()
    assert total(reduction) == [0, 0, 0]


def test_add_needs_a_place_of_its_own(reduction: Reduction) -> None:
    with pytest.raises(MisuseError, match="place"):
        reduction.add(np.ones(SIZE, np.float32))
    grads = place(reduction, [1, 2, 3])
    reduction.add(grads)
    with pytest.raises(MisuseError, match="place"):
        reduction.add(grads)
    assert total(reduction) == [1, 2, 3]
    reduction.clear()
    with pytest.raises(MisuseError, match="place"):
        reduction.add(grads)


def test_an_array_of_another_shape_is_no_gradient(reduction: Reduction) -> None:
    place(reduction, [1, 2, 3])
    for size in (1, SIZE + 1):
        with pytest.raises(MisuseError):
            reduction.add(np.ones(size, np.float32))


def test_nothing_is_added_to_what_was_handed_over(reduction: Reduction) -> None:
    reduction.add(place(reduction, [1, 2, 3]))
    grads = place(reduction, [1, 2, 3])
    assert total(reduction) == [1, 2, 3]
    with pytest.raises(MisuseError, match="start"):
        reduction.add(grads)


def test_all_is_handed_over_exactly_once(reduction: Reduction) -> None:
    sums = ForegroundSums(lambda values: None)
    reduction.clear()
    with pytest.raises(MisuseError, match=r"finish\(\)"):
        reduction.finish(sums)
    reduction.start(slice(0, None), sums)
    with pytest.raises(MisuseError, match=r"start\(\)"):
        reduction.start(slice(0, None), sums)
    reduction.finish(sums)


def test_no_more_shards_than_there_are(reduction: Reduction) -> None:
    for _ in range(2):
        reduction.add(place(reduction, [1, 2, 3]))
    with pytest.raises(MisuseError, match="place"):
        reduction.place()


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_a_kept_gradient_is_the_one_in_its_place_and_added_whole(name: str) -> None:
    reduction = keep_gradients(name, SIZE, 2, 4096.0, SerialCommunicator())
    assert reduction is not None
    placed = reduction.place()
    placed[:] = [1, 2, 3]
    with pytest.raises(MisuseError, match="place"):
        reduction.add(placed.copy())
    with pytest.raises(MisuseError, match="bucket"):
        reduction.add(placed, slice(0, 2))
    reduction.add(placed)
    assert total(reduction) == [1, 2, 3]
