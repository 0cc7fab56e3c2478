"""The exact sum: any order and any grouping gives the same bits; beyond its range it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.distributed import ExactSum, RangeError
from distcnn.distributed.exact_sum import CHUNK, check_terms

LIMIT = 2.0**9
SIZE = 7

PROPERTY = settings(max_examples=200, deadline=None, derandomize=True)


def grid(num_terms: int) -> Fraction:
    """The spacing of the grid to which terms are rounded: the range (LIMIT times the power of two
    that holds num_terms) over 2**52.
    """
    return Fraction(LIMIT) * max(2, 2 ** math.ceil(math.log2(num_terms))) / 2**52


def sum_of(vectors: list[np.ndarray], num_terms: int, limit: float = LIMIT) -> np.ndarray:
    """The exact sum of some of ``num_terms`` vectors, as one rank computes it."""
    exact, total = ExactSum(num_terms, limit), np.zeros(SIZE)
    for vector in vectors:
        exact.add(total, vector)
    return total


def gradients(num_terms: int) -> st.SearchStrategy[list[np.ndarray]]:
    """``num_terms`` float32 vectors of all magnitudes up to LIMIT, including halves of the grid's
    spacing.
    """
    anything = st.floats(-LIMIT, LIMIT, width=32)
    near_ties = st.integers(-(2**20), 2**20).map(lambda k: k * float(grid(num_terms)) / 2)
    number = st.one_of(anything, near_ties, st.sampled_from([LIMIT, -LIMIT, 0.0, -0.0]))
    vector = st.lists(number, min_size=SIZE, max_size=SIZE).map(
        lambda numbers: np.array(numbers, np.float32)
    )
    return st.lists(vector, min_size=num_terms, max_size=num_terms)


@PROPERTY
@given(data=st.data(), num_terms=st.integers(1, 12))
def test_any_order_and_any_grouping_gives_the_same_bits(
    data: st.DataObject, num_terms: int
) -> None:
    vectors = data.draw(gradients(num_terms))
    expected = sum_of(vectors, num_terms).tobytes()

    order = data.draw(st.permutations(range(num_terms)))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=num_terms, max_size=num_terms))
    partial = [
        sum_of([vectors[index] for index in order if owners[index] == rank], num_terms)
        for rank in range(4)
    ]
    tree = data.draw(st.permutations(range(4)))
    total = (partial[tree[0]] + partial[tree[1]]) + (partial[tree[2]] + partial[tree[3]])
    chain = ((partial[tree[3]] + partial[tree[1]]) + partial[tree[0]]) + partial[tree[2]]

    assert total.tobytes() == expected
    assert chain.tobytes() == expected


@PROPERTY
@given(data=st.data(), num_terms=st.integers(1, 12))
def test_the_sum_is_that_of_the_rounded_terms_in_rational_arithmetic(
    data: st.DataObject, num_terms: int
) -> None:
    vectors = data.draw(gradients(num_terms))
    step = grid(num_terms)
    expected = [
        sum(round(Fraction(float(vector[index])) / step) for vector in vectors) * step
        for index in range(SIZE)
    ]
    found = [Fraction(number) for number in sum_of(vectors, num_terms).tolist()]
    # Python's round and the hardware both take ties to even, of the same multiple: 1.5 * range /
    # step is even.
    assert found == expected


@PROPERTY
@given(data=st.data(), num_terms=st.integers(1, 12), scale=st.sampled_from([1.0, 2.0**-6]))
def test_all_terms_at_once_give_the_same_bits_in_pairs_or_not(
    data: st.DataObject, num_terms: int, scale: float
) -> None:
    vectors = [np.float32(scale) * vector for vector in data.draw(gradients(num_terms))]
    own = data.draw(st.integers(1, num_terms))
    exact = ExactSum(num_terms, LIMIT)
    reach = sum(float(np.abs(vector).max()) for vector in vectors[:own])
    expected = sum_of(vectors[:own], num_terms).tobytes()
    for each in (reach, LIMIT * num_terms):
        assert exact.sum_of([vectors[:own]], each).tobytes() == expected


@pytest.mark.parametrize("num_terms", [1, 2, 3, 4, 8, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_terms_at_the_limit_all_at_once_are_summed_exactly(num_terms: int, sign: int) -> None:
    terms = [np.full(SIZE, sign * LIMIT, np.float32)] * num_terms
    total = ExactSum(num_terms, LIMIT).sum_of([terms], LIMIT * num_terms)
    assert total.tolist() == [sign * LIMIT * num_terms] * SIZE


def test_in_pairs_beyond_half_the_range_a_sum_would_be_rounded() -> None:
    """1.5*R plus two terms at the limit and one more multiple of the grid is beyond 2R, where
    float64 has only every second multiple.
    """
    step, exact = float(grid(4)), ExactSum(4, LIMIT)
    terms = [np.array([each], np.float32) for each in (step, LIMIT, LIMIT, LIMIT)]
    assert exact.sum_of([terms], 3 * LIMIT + step).tolist() == [3 * LIMIT + step]
    assert exact.sum_of([terms], 0.0).tolist() == [3 * LIMIT]  # told that they are small


def test_plain_float32_sums_of_such_vectors_do_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(1000).astype(np.float32) for _ in range(8)]
    forwards, backwards = sum(vectors), sum(vectors[::-1])
    assert np.any(forwards != backwards)  # else the test above proves nothing


def test_hand_computed_rounding_to_the_grid() -> None:
    step = float(grid(8))
    assert step == 2.0**-40
    vector = np.array(
        [1.0, step, 0.5 * step, 1.5 * step, 0.75 * step, -0.25 * step, 3.0], np.float32
    )
    assert (sum_of([vector], 8) / step).tolist() == [2.0**40, 1, 0, 2, 1, 0, 3 * 2.0**40]


@pytest.mark.parametrize("num_terms", [1, 2, 3, 8, 4096])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_at_the_limit_and_just_below_are_summed_exactly(num_terms: int, sign: int) -> None:
    for largest in (np.float32(LIMIT), np.nextafter(np.float32(LIMIT), np.float32(0))):
        vectors = [np.full(SIZE, sign * largest)] * num_terms
        assert sum_of(vectors, num_terms).tolist() == [sign * float(largest) * num_terms] * SIZE


@pytest.mark.parametrize("num_terms", [1, 2, 8, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_just_beyond_the_bound_is_refused_and_nothing_added(
    num_terms: int, sign: int
) -> None:
    exact, total = ExactSum(num_terms, LIMIT), np.zeros(SIZE)
    vector = np.ones(SIZE, np.float32)
    vector[4] = sign * np.nextafter(np.float32(exact.limit), np.float32(np.inf))
    with pytest.raises(RangeError, match=r"element 4 is -?\d.*beyond the exact sum's limit"):
        exact.add(total, vector)
    assert total.tolist() == [0] * SIZE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [1, 5, CHUNK + 3])
def test_nan_and_inf_are_refused_wherever_they_stand(bad: float, size: int) -> None:
    for index in {0, size // 2, size - 1}:
        vector = np.zeros(size, np.float32)
        vector[index] = bad
        with pytest.raises(RangeError) as caught:
            ExactSum(8, LIMIT).add(np.zeros(size), vector)
        assert caught.value.index == index


def test_a_higher_limit_takes_larger_values_on_a_coarser_grid() -> None:
    vector = np.full(SIZE, 5000.0, np.float32)
    with pytest.raises(RangeError):
        sum_of([vector], 8)
    assert sum_of([vector], 8, 2.0**17).tolist() == [5000.0] * SIZE
    assert sum_of([np.full(SIZE, 2.0**-34, np.float32)], 8, 2.0**17).tolist() == [0] * SIZE


def test_vectors_longer_than_a_chunk_are_summed_whole() -> None:
    vector = np.arange(2 * CHUNK + 5, dtype=np.float32) % 97
    exact, total = ExactSum(2, LIMIT), np.zeros(vector.size)
    exact.add(total, vector)
    exact.add(total, vector)
    assert total.tolist() == (2.0 * vector).tolist()


@pytest.mark.parametrize(
    ("limit", "num_terms"), [(3000.0, 8), (0.0, 8), (-4096.0, 8), (math.inf, 8), (4096.0, 0)]
)
def test_an_impossible_limit_or_count_is_refused(limit: float, num_terms: int) -> None:
    with pytest.raises(ValueError, match="must be a power of two"):
        ExactSum(num_terms, limit)


def test_no_terms_are_in_range() -> None:
    check_terms(np.empty(0, np.float32), 1.0)
