"""The reducers: what they add, what they reject, and their common contract."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.distributed import (
    SUMS,
    Allreduce,
    Bucket,
    BucketReducer,
    Communicator,
    RangeError,
    Reducer,
    plan_buckets,
    shared_memory_reducer,
)

SIZE, LIMIT = 4, 4096.0
TWO_BUCKETS = plan_buckets([0, 2, SIZE], smallest=1)


def summed(name: str, own_shards: int = 2, limit: float = LIMIT) -> BucketReducer:
    """A reducer of two buckets for one rank."""
    sums, gradient = Allreduce(lambda values: None), np.zeros(SIZE, np.float32)
    arithmetic = SUMS[name](own_shards, limit)
    reducer = BucketReducer(arithmetic, own_shards, gradient, sums, TWO_BUCKETS)
    reducer.begin()
    return reducer


def shared(name: str, own_shards: int = 2) -> Reducer:
    """A reducer in shared memory for one rank."""
    reducer = shared_memory_reducer(SUMS[name](own_shards, LIMIT), SIZE, Communicator())
    assert reducer is not None
    reducer.begin()
    return reducer


@pytest.fixture(params=[*SUMS, *(f"shared {name}" for name in SUMS)])
def reducer(request: pytest.FixtureRequest) -> Reducer:
    """Each reducer, for two shards of ``SIZE`` elements, at the beginning of a step."""
    *is_shared, name = request.param.split()
    return shared(name) if is_shared else summed(name)


def add(reducer: Reducer, *gradient: float) -> None:
    """Add one shard's gradient."""
    with reducer.slot() as slot:
        slot[:] = gradient


def total(reducer: Reducer) -> list[float]:
    """The sum of all gradients."""
    reducer.all_reduce()
    return gradient_of(reducer)


def gradient_of(reducer: Reducer) -> list[float]:
    assert reducer.gradient.dtype == np.float32
    return [float(value) for value in reducer.gradient]


# -- sums


def test_gradients_and_counts_are_summed_and_the_next_step_begins_at_zero(reducer: Reducer) -> None:
    for _ in range(2):
        reducer.begin()
        add(reducer, 1, 2, 3, 4)
        reducer.count(1.5, 4, 5)
        add(reducer, 0.5, -2, 1, 0)
        reducer.count(0.25, 1, 3)
        reducer.stats.ask_to_stop()
        totals = reducer.all_reduce()
        assert gradient_of(reducer) == [1.5, 0, 4, 4]
        assert (totals.loss_sum, totals.correct, totals.examples) == (1.75, 5, 8)
        assert (totals.failures, totals.stops) == (0, 1)
        assert totals.loss == 1.75 / 8


def test_a_shard_that_is_left_out_or_fails_counts_as_zero(reducer: Reducer) -> None:
    add(reducer, 5, 5, 5, 5)
    add(reducer, 5, 5, 5, 5)
    assert total(reducer) == [10, 10, 10, 10]
    reducer.begin()
    add(reducer, 1, 2, 3, 4)
    assert total(reducer) == [1, 2, 3, 4]
    reducer.begin()
    with pytest.raises(ZeroDivisionError), reducer.slot() as gradients:
        gradients[:] = 1 / 0
    add(reducer, 1, 2, 3, 4)
    assert total(reducer) == [1, 2, 3, 4]
    reducer.begin()
    assert total(reducer) == [0, 0, 0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_rejected(reducer: Reducer, bad: float) -> None:
    with pytest.raises(RangeError) as caught:
        add(reducer, 0, 0, 0, bad)
    assert caught.value.index == 3
    with pytest.raises(RangeError):
        reducer.check(np.array([0, bad], np.float32))
    with pytest.raises(RangeError):
        reducer.count(bad, 0, 1)


@pytest.mark.parametrize("make", [summed, shared])
def test_only_the_exact_sum_has_a_narrow_range(make: Callable[[str], Reducer]) -> None:
    add(make("fast"), 1e6, 0, 0, 0)
    with pytest.raises(RangeError):
        add(make("exact"), 1e6, 0, 0, 0)


# -- the contract of all


def test_one_slot_for_each_shard(reducer: Reducer) -> None:
    add(reducer, 1, 2, 3, 4)
    add(reducer, 1, 2, 3, 4)
    with pytest.raises(AssertionError, match="slot"):
        add(reducer, 1, 2, 3, 4)


def test_no_slot_within_a_slot(reducer: Reducer) -> None:
    with reducer.slot() as gradients:
        gradients[:] = 1
        with pytest.raises(AssertionError, match="inside"):
            add(reducer, 1, 2, 3, 4)
        with pytest.raises(AssertionError, match="inside"):
            reducer.all_reduce()


def test_one_count_for_each_shard(reducer: Reducer) -> None:
    reducer.count(1.0, 1, 1)
    reducer.count(1.0, 1, 1)
    with pytest.raises(AssertionError, match="count"):
        reducer.count(1.0, 1, 1)


def test_after_the_sum_nothing_is_added_before_the_next_step(reducer: Reducer) -> None:
    add(reducer, 1, 2, 3, 4)
    assert total(reducer) == [1, 2, 3, 4]
    with pytest.raises(AssertionError, match="begin"):
        add(reducer, 1, 2, 3, 4)
    with pytest.raises(AssertionError, match="begin"):
        reducer.count(1.0, 1, 1)
    with pytest.raises(AssertionError, match="second time"):
        reducer.all_reduce()
    assert gradient_of(reducer) == [1, 2, 3, 4]
    reducer.begin()
    add(reducer, 1, 2, 3, 4)


# -- bucket by bucket


@pytest.mark.parametrize("name", SUMS)
def test_buckets_of_two_shards_side_by_side_are_summed(name: str) -> None:
    reducer = summed(name, own_shards=3)
    reducer.begin()
    add(reducer, 100, 200, 300, 400)  # a whole shard before them
    for bucket in reducer.buckets:
        for gradient in ([1, 2, 3, 4], [10, 20, 30, 40]):
            reducer.gradient[bucket.elements] = gradient[bucket.elements]
            reducer.add(bucket)
        if bucket.is_last:
            reducer.count(1.0, 2, 3)
        reducer.start(bucket)
    totals = reducer.finish()
    assert gradient_of(reducer) == [111, 222, 333, 444]
    assert (totals.loss_sum, totals.correct, totals.examples) == (1, 2, 3)


@pytest.mark.parametrize("name", SUMS)
def test_nothing_of_the_step_before_is_left_in_a_bucket_without_shards(name: str) -> None:
    reducer = summed(name)
    reducer.begin()
    add(reducer, 7, 7, 7, 7)
    reducer.all_reduce()
    reducer.begin()
    last_layers, first_layers = reducer.buckets
    reducer.gradient[:] = 1
    reducer.add(last_layers)
    for bucket in (last_layers, first_layers):
        reducer.start(bucket)
    reducer.finish()
    assert gradient_of(reducer) == [0, 0, 1, 1]


@pytest.mark.parametrize("name", SUMS)
def test_each_bucket_is_started_once_in_order_with_nothing_added_later(name: str) -> None:
    reducer = summed(name)
    first, last = reducer.buckets
    reducer.begin()
    with pytest.raises(AssertionError, match=r"finish\(\)"):
        reducer.finish()
    with pytest.raises(AssertionError, match=r"start\(\)"):
        reducer.start(last)
    reducer.start(first)
    with pytest.raises(AssertionError, match=r"start\(\)"):
        reducer.start(first)
    with pytest.raises(AssertionError, match=r"add\(\)"):
        reducer.add(first)
    for _ in range(2):
        reducer.add(last)
    with pytest.raises(AssertionError, match=r"add\(\)"):
        reducer.add(last)
    reducer.start(last)
    with pytest.raises(AssertionError, match=r"count\(\)"):
        reducer.count(1.0, 1, 1)  # the counts travel with the last bucket
    reducer.finish()
    with pytest.raises(AssertionError, match=r"finish\(\)"):
        reducer.finish()


# -- planning buckets


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 2000))
def test_buckets_cover_all_once_in_order_and_only_the_last_is_small(
    sizes: list[int], smallest: int
) -> None:
    borders = [0, *np.cumsum(sizes).tolist()] if sizes else [0, 0]
    buckets = plan_buckets(sorted(set(borders)) if borders[-1] else [0, 0], smallest)
    elements = [index for bucket in reversed(buckets) for index in range(bucket.start, bucket.stop)]
    assert elements == list(range(borders[-1]))
    assert all({bucket.start, bucket.stop} <= set(borders) for bucket in buckets)
    assert all(bucket.stop - bucket.start >= smallest for bucket in buckets[:-1])
    assert [bucket.number for bucket in buckets] == list(range(len(buckets)))
    assert [bucket.is_last for bucket in buckets] == [*[False] * (len(buckets) - 1), True]


def test_lenet_has_a_bucket_of_dense_and_one_of_convolution() -> None:
    assert plan_buckets([0, 520, 25_570, 426_070, 431_080]) == (
        Bucket(0, 25_570, 431_080, is_last=False),
        Bucket(1, 0, 25_570, is_last=True),
    )
