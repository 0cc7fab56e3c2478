"""Random streams: one name always gives the same numbers, other names give others, and streams do
not overlap.
"""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.random_streams import BLOCK, INITIALISE, SHUFFLE, PortableGenerator, generator

SEEDS = st.integers(0, 2**62)
INDICES = st.integers(0, 2**32)


@given(seed=SEEDS, purpose=st.sampled_from([INITIALISE, SHUFFLE]), first=INDICES, second=INDICES)
@settings(derandomize=True, deadline=None)
def test_the_same_name_gives_the_same_stream(
    seed: int, purpose: int, first: int, second: int
) -> None:
    stream, again = (generator(seed, purpose, first, second).random_raw(50) for _ in range(2))
    assert np.array_equal(stream, again)


@given(
    names=st.lists(
        st.tuples(SEEDS, st.sampled_from([INITIALISE, SHUFFLE]), INDICES, INDICES),
        min_size=2,
        max_size=5,
        unique=True,
    )
)
@settings(derandomize=True, deadline=None)
def test_different_names_give_different_streams(names: list[tuple[int, int, int, int]]) -> None:
    beginnings = [tuple(generator(*name).random_raw(2).tolist()) for name in names]
    assert len(set(beginnings)) == len(names)


def test_neighbouring_streams_have_no_number_in_common() -> None:
    # Two streams of a counter-based generator that are too close are the same stream, shifted.
    length = 2000
    streams = [
        generator(*name).random_raw(length)
        for name in itertools.product((0, 1), (INITIALISE, SHUFFLE), (0, 1, 2), (0, 1, 2))
    ]
    assert len(np.unique(np.concatenate(streams))) == len(streams) * length


@pytest.mark.parametrize("indices", [(), (5,), (5, 0)], ids=str)
def test_indices_that_are_left_out_are_zero(indices: tuple[int, ...]) -> None:
    first, second = (*indices, 0, 0)[:2]
    assert (
        generator(3, SHUFFLE, *indices).random_raw()
        == generator(3, SHUFFLE, first, second).random_raw()
    )


def test_more_than_two_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="counter"):
        generator(1, SHUFFLE, 1, 2, 3)


def test_the_streams_have_not_changed() -> None:
    # A change here changes every run's first weights and every order: results of earlier versions
    # could not be had again.
    assert generator(7, SHUFFLE, 2, 3).random_raw(4).tolist() == [
        0x176FCCFB5680CAB8,
        0x3C824AEF00417D45,
        0x84E1E5BCA929BDF3,
        0xEE878294CE87E652,
    ]
    assert generator(0, INITIALISE).random_raw(2).tolist() == [
        0xD037F8C3F9A1D176,
        0xC057419B4C210765,
    ]


def test_the_largest_seeds_differ_too() -> None:
    seeds = [2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    assert len({int(generator(seed, INITIALISE).random_raw()) for seed in seeds}) == len(seeds)


# -- numbers made of words


def draws(seed: int = 0) -> PortableGenerator:
    return PortableGenerator(generator(seed, INITIALISE))


def test_normal_numbers_are_normal() -> None:
    values = draws().standard_normal(400_000)
    assert [float(np.mean(values**power)) for power in (1, 2, 3, 4)] == pytest.approx(
        [0, 1, 0, 3], abs=0.03
    )
    for bound in (0.1, 1, 2, 3):
        assert np.mean(np.abs(values) < bound) == pytest.approx(
            math.erf(bound / math.sqrt(2)), abs=0.003
        )
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1e-4, 1e-4), (-0.0693, 0.0693), (2.0, 5.0)]
)
def test_uniform_numbers_are_those_of_numpy_today(low: float, high: float) -> None:
    numpy = np.random.Generator(generator(3, INITIALISE)).uniform(low, high, (100, 33))
    assert draws(3).uniform(low, high, (100, 33)).tobytes() == numpy.tobytes()


def test_words_of_any_kind_give_finite_numbers() -> None:
    class Extreme(PortableGenerator):
        def _words(self, count: int) -> np.ndarray:
            return np.resize(np.array([0, 0, 2**53 - 1, 2**52, 2**51], np.uint64), count)

    values = Extreme(generator(0, INITIALISE)).standard_normal(50)
    assert np.isfinite(values).all()
    assert 8 < np.abs(values).max() < 9
    fractions = Extreme(generator(0, INITIALISE)).random(50)
    assert (fractions.min(), fractions.max()) == (0, 1 - 2.0**-53)


def test_pieces_are_parts_of_the_whole() -> None:
    whole, parts = draws().standard_normal(2 * BLOCK + 7), draws()
    pieces = [parts.standard_normal(count) for count in (5, BLOCK, BLOCK + 1, 1)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_it_is_called_as_numpys() -> None:
    rng, numpy = draws(), np.random.default_rng(0)
    for name in ("random", "standard_normal", "uniform", "normal"):
        for size in (None, 3, (2, 3), [2, 0], ()):
            ours, theirs = (np.asarray(getattr(each, name)(size=size)) for each in (rng, numpy))
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    for name in ("random", "standard_normal"):
        assert getattr(rng, name)(4, dtype=np.float32).dtype == np.float32
        out = np.zeros(3)
        assert getattr(rng, name)(out=out) is out
        assert out.all()
    assert rng.uniform([0, 10], [1, 11]).astype(int).tolist() == [0, 10]
    assert rng.normal([0, 100], 1e-3).round().tolist() == [0, 100]
    assert 0 <= rng.integers(5) < 5  # the rest is NumPy's


def test_the_numbers_have_not_changed() -> None:
    # A change here changes the first weights of every run. These hashes hold on every processor and
    # with every NumPy.
    drawn = draws(1).standard_normal(1000), draws(1).uniform(-1, 1, 1000)
    hashes = [hashlib.sha256(values.astype("<f8").tobytes()).hexdigest() for values in drawn]
    assert hashes == [
        "24af89a3d1947628c011109f17ff5c67180237ac2a380a20b873f971176b12e9",
        "4e0c906a4299443ecd74b7283acc545b3e8db8c3277eaa7642ec4f56fa18a6b4",
    ]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_random_numbers_are_below_one_in_any_precision(dtype: type[np.floating]) -> None:
    class Largest(np.random.Philox):
        def random_raw(self, size: int = 1, output: bool = True) -> np.ndarray:
            return np.full(size, 2**64 - 1, np.uint64)

    rng = PortableGenerator(Largest(0))
    largest = np.nextafter(dtype(1), dtype(0))
    assert rng.random(3, dtype=dtype).tolist() == [largest] * 3
    assert rng.random(out=np.empty(3, dtype)).tolist() == [largest] * 3
