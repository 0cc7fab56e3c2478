"""The order of an epoch in windows: every example once, by (seed, epoch, shard) alone; one window
is the order of a shard in memory.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.datasets import DatasetInfo, Shard
from distcnn.datasets.shards import Order
from distcnn.datasets.streaming import MIB, window_bounds, window_examples
from distcnn.errors import InputError
from distcnn.random_streams import SHUFFLE, SHUFFLE_WINDOWS, generator

SEEDS, EPOCHS = st.integers(0, 2**62), st.integers(0, 2**31)
GENTLE = settings(derandomize=True, deadline=None)


def info(
    train: int = 1000,
    test: int = 100,
    chunk: int = 16,
    image_shape: tuple[int, int, int] = (1, 28, 28),
) -> DatasetInfo:
    return DatasetInfo(
        path="set.h5",
        name="",
        source="",
        sha256="",
        classes=10,
        image_shape=image_shape,
        examples={"train": train, "test": test},
        mean=None,
        std=None,
        chunk_examples={"train": chunk, "test": chunk},
    )


def whole(order: Order, examples: int, epoch: int) -> list[int]:
    return order.chosen(epoch, 0, examples).tolist()


def by_hand(seed: int, shard: int, epoch: int, bounds: NDArray[np.int64]) -> list[int]:
    """The order as its description says, drawn as one."""
    words = np.atleast_1d(
        generator(seed, SHUFFLE, epoch, shard).random_raw(int(bounds[-1]))
    ).tolist()
    windows = list(itertools.pairwise(bounds.tolist()))
    if len(windows) > 1:
        of_windows = (
            generator(seed, SHUFFLE_WINDOWS, epoch, shard).random_raw(len(windows)).tolist()
        )
        windows = [window for _, window in sorted(zip(of_windows, windows, strict=True))]
    return [
        example
        for start, stop in windows
        for example in sorted(range(start, stop), key=words.__getitem__)
    ]


# -- where windows end


@given(
    start=st.integers(0, 100),
    examples=st.integers(0, 100),
    length=st.integers(1, 120),
    chunk=st.integers(1, 40),
)
@GENTLE
def test_windows_cover_a_shard_once_and_end_at_chunks(
    start: int, examples: int, length: int, chunk: int
) -> None:
    bounds = window_bounds(range(start, start + examples), length, chunk).tolist()
    if examples <= length:
        assert bounds == sorted({0, examples})
        return
    assert (bounds[0], bounds[-1]) == (0, examples)
    assert all(0 < stop - first <= length for first, stop in itertools.pairwise(bounds))
    if chunk <= length:
        assert all((start + bound) % chunk == 0 for bound in bounds[1:-1])


# -- the order


@given(
    seed=SEEDS,
    epoch=EPOCHS,
    start=st.integers(0, 50),
    examples=st.integers(0, 90),
    length=st.integers(1, 100),
    chunk=st.integers(1, 20),
    size=st.integers(1, 20),
)
@GENTLE
def test_an_epoch_in_windows_holds_every_example_once_as_described(
    seed: int, epoch: int, start: int, examples: int, length: int, chunk: int, size: int
) -> None:
    bounds = window_bounds(range(start, start + examples), length, chunk)
    order = Order(seed, 3, bounds)
    steps = [
        order.chosen(epoch, first, first + size).tolist()
        for first in range(0, examples + size, size)
    ]
    assert all(len(step) == size for step in steps[: examples // size])
    together = [example for step in steps for example in step]
    assert sorted(together) == list(range(examples))
    assert together == by_hand(seed, 3, epoch, bounds)


@given(seed=SEEDS, epoch=EPOCHS, index=st.integers(0, 1000), examples=st.integers(0, 60))
@GENTLE
def test_one_window_is_the_order_of_a_shard_in_memory(
    seed: int, epoch: int, index: int, examples: int
) -> None:
    bounds = window_bounds(range(7, 7 + examples), max(examples, 1), 4)
    in_memory = Shard(
        index, np.zeros((examples, 1, 1, 1), np.uint8), np.zeros(examples, np.int64), seed
    )
    assert whole(Order(seed, index, bounds), examples, epoch) == in_memory.order(epoch).tolist()


@given(
    seed=SEEDS,
    asked=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 20)), min_size=2, max_size=9
    ),
    length=st.integers(1, 60),
)
@GENTLE
def test_an_order_does_not_depend_on_what_was_asked_before(
    seed: int, asked: list[tuple[int, int, int]], length: int
) -> None:
    bounds = window_bounds(range(5, 55), length, 3)
    order = Order(seed, 0, bounds)
    for epoch, first, count in asked:
        assert (
            order.chosen(epoch, first, first + count).tolist()
            == by_hand(seed, 0, epoch, bounds)[first : first + count]
        )


def test_orders_of_neighbours_and_of_windows_differ() -> None:
    orders = [
        whole(Order(seed, shard, window_bounds(range(64), length, 4)), 64, epoch)
        for seed, shard, epoch in itertools.product((0, 1), (0, 1), (0, 1))
        for length in (8, 16, 64)
    ]
    assert len(set(map(tuple, orders))) == len(orders)


def test_the_orders_in_windows_have_not_changed() -> None:
    # A change here changes the result of every run in windows: it could not be had again with the
    # same configuration.
    assert whole(Order(7, 3, [0, 3, 7, 10]), 10, epoch=0) == [3, 5, 4, 6, 8, 7, 9, 0, 1, 2]
    assert whole(Order(7, 3, [0, 3, 7, 10], shuffled=False), 10, epoch=0) == list(range(10))


# -- how long windows are


def test_a_window_is_whole_chunks_and_what_is_kept_stays_within_the_limit() -> None:
    for memory, num_shards, chunk in itertools.product(
        (0.3, 1, 2.5, 7), (1, 2, 8), (1, 5, 16, 100)
    ):
        set_ = info(train=20_000, test=3000, chunk=chunk)
        try:
            length = window_examples(set_, num_shards, memory)
        except InputError:
            continue
        assert length % chunk == 0
        buffers = 2 * (num_shards + 1) * length * (784 + 8)
        assert buffers + num_shards * length * 8 + 2 * 20_000 <= memory * MIB
        assert window_examples(set_, num_shards, memory * 1.5) >= length


def test_a_set_that_fits_is_one_window_a_shard() -> None:
    assert window_examples(info(train=1003), 8, 100) == 126
    assert window_bounds(range(125, 250), 126, 16).tolist() == [0, 125]


def test_a_limit_that_holds_no_chunk_is_refused_with_the_least_that_works() -> None:
    set_ = info(train=20_000, chunk=100)
    with pytest.raises(InputError, match=r"--data-memory is 0\.5: .* at least \d") as raised:
        window_examples(set_, 8, 0.5)
    least = float(str(raised.value).split("at least ")[1].split()[0])
    assert window_examples(set_, 8, least) == 100
    with pytest.raises(InputError):
        window_examples(set_, 8, least - 0.2)


def test_a_chunk_longer_than_the_shards_need_not_be_a_window() -> None:
    assert window_examples(info(train=800, test=10, chunk=200), 8, 1.5) == 100
