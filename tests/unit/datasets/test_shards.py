"""Shards and microbatches: every example once an epoch, in an order of (seed, epoch, shard) alone,
normalised as the formula says.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.datasets import Microbatch, Shard, steps_per_epoch

SEEDS = st.integers(0, 2**62)
EPOCHS = st.integers(0, 2**31)
GENTLE = settings(derandomize=True, deadline=None)

# With these a normalised pixel is the pixel itself, exactly.
MEAN_0, STD_1_255 = np.zeros(1), np.full(1, 1 / 255)


def make_shards(examples: int, num_shards: int, seed: int = 0) -> list[Shard]:
    """Even shards of a training set in which an example's label is its number, and its pixel that
    number's last byte.
    """
    return [
        Shard(index, (numbers % 256).astype(np.uint8).reshape(-1, 1, 1, 1), numbers, seed)
        for index, numbers in enumerate(np.array_split(np.arange(examples), num_shards))
    ]


def order_of(seed: int, epoch: int, index: int, examples: int = 64) -> list[int]:
    return (
        Shard(index, np.zeros((examples, 1, 1, 1), np.uint8), np.zeros(examples, np.int64), seed)
        .order(epoch)
        .tolist()
    )


@given(
    examples=st.integers(1, 150),
    num_shards=st.integers(1, 12),
    microbatch_size=st.integers(1, 20),
    seed=SEEDS,
    epoch=EPOCHS,
)
@GENTLE
def test_an_epoch_holds_every_example_of_every_shard_once(
    examples: int, num_shards: int, microbatch_size: int, seed: int, epoch: int
) -> None:
    shards, microbatch = (
        make_shards(examples, num_shards, seed),
        Microbatch((1, 1, 1), microbatch_size, MEAN_0, STD_1_255),
    )
    seen: list[int] = []
    taken_by_step = []
    for step in range(steps_per_epoch(examples, num_shards, microbatch_size)):
        taken = 0
        for shard in shards:
            count = shard.fill(microbatch, epoch, step)
            assert microbatch.weights.tolist() == [1.0] * count + [0.0] * (microbatch_size - count)
            assert not microbatch.labels[count:].any()
            assert not microbatch.images[..., count:].any()
            numbers = microbatch.labels[:count]
            assert np.isin(numbers, shard.labels).all()
            assert np.array_equal(microbatch.images[0, 0, 0, :count], numbers % 256)
            seen += numbers.tolist()
            taken += count
        taken_by_step.append(taken)
    assert sorted(seen) == list(range(examples))
    assert min(taken_by_step) > 0, "a step of nothing but padding"


@given(examples=st.integers(0, 100), index=st.integers(0, 1000), seed=SEEDS, epoch=EPOCHS)
@GENTLE
def test_an_order_is_a_permutation(examples: int, index: int, seed: int, epoch: int) -> None:
    assert sorted(order_of(seed, epoch, index, examples)) == list(range(examples))


@given(
    names=st.lists(
        st.tuples(SEEDS, EPOCHS, st.integers(0, 1000)), min_size=2, max_size=4, unique=True
    )
)
@GENTLE
def test_orders_of_different_seeds_epochs_and_shards_differ(
    names: list[tuple[int, int, int]],
) -> None:
    assert len({tuple(order_of(*name)) for name in names}) == len(names)


def test_orders_of_neighbours_differ() -> None:
    names = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1, 2) for index in (0, 1, 2)]
    assert len({tuple(order_of(*name)) for name in names}) == len(names)


@given(
    seed=SEEDS,
    index=st.integers(0, 100),
    epochs=st.lists(st.integers(0, 5), min_size=2, max_size=8),
)
@GENTLE
def test_an_order_does_not_depend_on_what_was_drawn_before(
    seed: int, index: int, epochs: list[int]
) -> None:
    shard = Shard(index, np.full((64, 1, 1, 1), 9, np.uint8), np.ones(64, np.int64), seed)
    for epoch in epochs:
        np.random.seed(epoch)  # noqa: NPY002  (the global state must not matter)
        assert shard.order(epoch).tolist() == order_of(seed, epoch, index)


def test_the_orders_have_not_changed() -> None:
    # A change here changes the result of every run: it could not be had again with the same
    # configuration.
    assert order_of(seed=7, epoch=0, index=3, examples=10) == [3, 0, 5, 1, 2, 4, 8, 7, 9, 6]
    assert order_of(seed=7, epoch=2, index=3, examples=10) == [0, 5, 1, 7, 8, 2, 9, 4, 6, 3]


@pytest.mark.parametrize("examples", [0, 1])
def test_a_shard_of_none_or_one_is_padded_to_the_full_shape(examples: int) -> None:
    shard, microbatch = make_shards(examples, 1)[0], Microbatch((1, 1, 1), 3, MEAN_0, STD_1_255)
    assert shard.fill(microbatch, 0, 0) == examples
    assert microbatch.weights.tolist() == [1.0] * examples + [0.0] * (3 - examples)
    assert microbatch.images.shape == (1, 1, 1, 3)


def test_past_its_end_a_shard_gives_only_padding_and_nothing_of_what_was_there() -> None:
    shard, microbatch = make_shards(5, 1)[0], Microbatch((1, 1, 1), 4, MEAN_0, STD_1_255)
    assert [shard.fill(microbatch, 0, step) for step in (0, 1, 2, 100)] == [4, 1, 0, 0]
    assert not microbatch.weights.any()
    assert not microbatch.labels.any()
    assert not microbatch.images.any()


@pytest.mark.parametrize(
    ("train_examples", "num_shards", "microbatch_size", "steps"),
    [
        (60_000, 8, 32, 235),
        (64, 8, 8, 1),
        (65, 8, 8, 2),
        (9, 8, 1, 2),
        (8, 8, 1, 1),
        (1, 8, 5, 1),
        (10, 3, 4, 1),
        (13, 3, 4, 2),
        (7, 1, 2, 4),
    ],
)
def test_steps_per_epoch_is_until_the_largest_shard_is_used_up(
    train_examples: int, num_shards: int, microbatch_size: int, steps: int
) -> None:
    assert steps_per_epoch(train_examples, num_shards, microbatch_size) == steps


def normalise_naively(
    images: NDArray[np.uint8], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, H, W, C) bytes to (C, H, W, N), one pixel at a time."""
    examples, height, width, channels = images.shape
    result = np.zeros((channels, height, width, examples))
    for n, h, w, c in np.ndindex(images.shape):
        result[c, h, w, n] = (int(images[n, h, w, c]) / 255 - mean[c]) / (std[c] or 1)
    return result


@given(
    channels=st.sampled_from([1, 2, 3]),
    examples=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    means=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    stds=st.lists(st.one_of(st.just(0.0), st.floats(0.003, 0.5)), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
@GENTLE
def test_pixels_are_normalised_by_channel_into_batch_innermost(
    channels: int,
    examples: int,
    height: int,
    width: int,
    means: list[float],
    stds: list[float],
    seed: int,
) -> None:
    images = (
        np.random.default_rng(seed)
        .integers(0, 256, (examples, height, width, channels))
        .astype(np.uint8)
    )
    mean, std = np.array(means[:channels]), np.array(stds[:channels])
    microbatch = Microbatch((channels, height, width), examples, mean, std)
    microbatch.fill(images, np.arange(examples), np.arange(examples))
    assert microbatch.images.dtype == np.float32
    assert microbatch.images.shape == (channels, height, width, examples)
    # A product and a difference in float32 of numbers up to 1 / std.
    tolerance = 4 * np.finfo(np.float32).eps / np.where(std > 0, std, 1).reshape(-1, 1, 1, 1)
    assert (np.abs(microbatch.images - normalise_naively(images, mean, std)) <= tolerance).all()


def test_the_chosen_examples_come_in_the_chosen_order() -> None:
    microbatch = Microbatch((1, 1, 1), 4, MEAN_0, STD_1_255)
    images, labels = np.array([10, 20, 30], np.uint8).reshape(-1, 1, 1, 1), np.array([1, 2, 3])
    assert microbatch.fill(images, labels, np.array([2, 0])) == 2
    assert microbatch.images[0, 0, 0].tolist() == [30, 10, 0, 0]
    assert microbatch.labels.tolist() == [3, 1, 0, 0]
    assert microbatch.weights.tolist() == [1, 1, 0, 0]


def test_a_constant_channel_becomes_zero() -> None:
    microbatch = Microbatch((1, 2, 2), 2, np.full(1, 51 / 255), np.zeros(1))
    microbatch.fill(np.full((2, 2, 2, 1), 51, np.uint8), np.zeros(2, np.int64), np.arange(2))
    assert np.abs(microbatch.images).max() <= np.finfo(np.float32).eps


def test_padding_is_finite_and_the_buffers_are_reused() -> None:
    microbatch = Microbatch((1, 2, 2), 3, np.array([0.13]), np.array([0.31]))
    buffers = [id(microbatch.images), id(microbatch.labels), id(microbatch.weights)]
    microbatch.fill(np.full((1, 2, 2, 1), 255, np.uint8), np.array([4]), np.array([0]))
    assert math.isfinite(float(microbatch.images.sum()))
    assert [id(microbatch.images), id(microbatch.labels), id(microbatch.weights)] == buffers
