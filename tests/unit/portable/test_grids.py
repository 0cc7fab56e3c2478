"""Rounding to grids, and products on them, against rational arithmetic: what the proof in
``distcnn.portable.grids`` says holds, and one bit more breaks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from distcnn.portable.grids import (
    FLOAT32_ROUNDED_BITS,
    LIMIT,
    MOST_BITS,
    MOST_TERMS,
    PART,
    PRECISION,
    ROUNDED_BITS,
    TINY,
    anchor,
    bits_of_terms,
    bits_of_transform,
    bound_of,
    nan_without_grid,
    operand_bits,
    parts,
    precision_of,
    require_exact,
    round_by,
    round_to_grid,
)

Floats = NDArray[np.float64]
many = settings(deadline=None, derandomize=True, max_examples=300)
finite = st.floats(-(2.0**99), 2.0**99) | st.floats(-4, 4) | st.floats(-1e-60, 1e-60)


def rounded(x: NDArray[np.floating], bits: int) -> tuple[Floats, float]:
    out = np.empty(x.shape)
    return out, round_to_grid(x, bits, out)


# -- rounding


@many
@given(values=st.lists(finite, min_size=1, max_size=8), bits=st.integers(1, ROUNDED_BITS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_element_becomes_the_nearest_multiple_of_the_spacing(
    values: list[float], bits: int, dtype: type[np.floating]
) -> None:
    x = np.array(values, dtype)
    found, bound = rounded(x, bits)
    largest = max(abs(Fraction(float(each))) for each in x)
    assert math.frexp(bound)[0] == 0.5
    assert largest < bound
    assert bound / 2 <= max(largest, Fraction(TINY))
    spacing = Fraction(bound) / 2**bits
    for each, result in zip(x.tolist(), found.tolist(), strict=True):
        multiple = round(Fraction(each) / spacing)  # ties to even
        assert Fraction(result) == multiple * spacing
        assert abs(multiple) <= 2**bits
        assert result != 0 or math.copysign(1, result) == 1
    again = np.empty_like(found)
    round_by(anchor(bound, bits), found, again)
    assert_array_equal(again, found)
    round_by(anchor(bound, bits), found, found)  # in place
    assert_array_equal(again, found)


@many
@given(
    values=st.lists(st.floats(-4, 4, width=32) | st.floats(-(2.0**99), 2.0**99, width=32)),
    scale=st.integers(-140, 0),
    bits=st.integers(1, FLOAT32_ROUNDED_BITS),
)
def test_rounding_in_float32_gives_the_same(values: list[float], scale: int, bits: int) -> None:
    x = np.ldexp(np.array(values, np.float32), scale).astype(np.float32)
    expected, bound = rounded(x, bits)
    round_by(anchor(bound, bits, precision_of(x.dtype)), x, x)
    if bound > 2.0**-120:  # else spacings may be subnormal numbers, and no coarser than float32's
        assert_array_equal(x, expected)
    assert not np.signbit(x[x == 0]).any()


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.float32, FLOAT32_ROUNDED_BITS), (np.float64, ROUNDED_BITS)]
)
def test_the_most_bits_hold_for_all_numbers_up_to_the_bound(
    dtype: type[np.floating], bits: int
) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 2000).astype(dtype)
    found = np.empty_like(x)
    round_by(anchor(1, bits, precision_of(dtype)), x, found)
    assert_array_equal(found, np.rint(x.astype(np.longdouble) * 2.0**bits) / 2.0**bits)


def test_longer_sums_are_split_so_that_operands_keep_18_bits() -> None:
    assert operand_bits(2**40) == operand_bits(MOST_TERMS) == 18


def test_products_of_the_smallest_operands_do_not_underflow() -> None:
    smallest, largest = TINY / 2.0**PRECISION, LIMIT * MOST_TERMS
    assert smallest**2 > np.finfo(np.float64).tiny
    assert largest**2 < np.finfo(np.float64).max


def test_ties_go_to_even_by_hand() -> None:
    found, bound = rounded(np.array([4.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.75, -0.0]), 3)
    assert bound == 8
    assert found.tolist() == [4, 0, 2, 2, 0, -2, 1, 0]
    assert not np.signbit(found[[1, 4, 7]]).any()


def test_zeros_subnormals_and_empty_arrays_have_a_grid() -> None:
    for x in (np.zeros((2, 3)), np.array([-0.0]), np.array([5e-324, -1e-310]), np.zeros((0, 4))):
        found, bound = rounded(x, 20)
        assert bound == 2 * TINY
        assert_array_equal(found, np.zeros_like(x))
        assert not np.signbit(found).any()
    subnormals = np.array([1e-45, 0, -1e-40], np.float32)
    found, bound = rounded(subnormals, 20)
    assert_array_equal(found, np.rint(subnormals.astype(float) * 2.0**20 / bound) * bound / 2**20)
    assert found.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, LIMIT, -LIMIT, 1e300])
def test_what_has_no_grid_becomes_nan_as_a_whole(value: float) -> None:
    x = np.array([[1.0, value], [2.0, 0.0]])
    with np.errstate(all="ignore"):
        found, bound = rounded(x, 20)
    assert math.isnan(bound)
    assert np.isnan(found).all()
    below = math.nextafter(LIMIT, 0)
    assert bound_of(np.array([below])) == LIMIT


# -- products

terms_of_sums = st.integers(1, 40) | st.sampled_from([64, 65, 127, 128])


@st.composite
def operands(draw: st.DrawFn) -> tuple[Floats, Floats, int, int]:
    """Two matrices that need every one of the 53 bits, and the bits of each."""
    terms = draw(terms_of_sums)
    left = PRECISION - bits_of_terms(terms)
    bits = draw(st.integers(left // 2 - 3, left // 2 + 3))
    others = left - bits
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    low = draw(st.sampled_from([0, 1, 2]))  # any, of one sign, all as large as they can be
    a = rng.integers((low - 1) * 2**bits, 2**bits, (rows, terms), endpoint=True)
    b = rng.integers((low - 1) * 2**others, 2**others, (terms, columns), endpoint=True)
    scale = 2.0 ** draw(st.integers(-200, 60)), 2.0 ** draw(st.integers(-200, 60))
    return a * scale[0], b * scale[1], bits, others


def exact_product(a: Floats, b: Floats) -> list[list[Fraction]]:
    return [
        [
            sum((Fraction(x) * Fraction(y) for x, y in zip(row, column, strict=True)), Fraction(0))
            for column in b.T.tolist()
        ]
        for row in a.tolist()
    ]


def as_fractions(product: Floats) -> list[list[Fraction]]:
    return [list(map(Fraction, row)) for row in product.tolist()]


@many
@given(drawn=operands(), seed=st.integers(0, 2**32 - 1))
def test_products_of_53_bits_are_exact_in_every_order(
    drawn: tuple[Floats, Floats, int, int], seed: int
) -> None:
    a, b, bits, other_bits = drawn
    terms = a.shape[1]
    require_exact(bits, other_bits, terms)
    for operand, its_bits in ((a, bits), (b, other_bits)):
        kept = np.empty_like(operand)
        bound = 2.0 ** math.ceil(math.log2(np.abs(operand).max() or TINY))
        round_by(anchor(bound, its_bits), operand, kept)
        assert_array_equal(kept, operand)  # they are on such a grid
    expected = exact_product(a, b)
    assert as_fractions(a @ b) == expected
    order = np.random.default_rng(seed).permutation(terms)
    assert as_fractions(np.ascontiguousarray(a[:, order]) @ b[order]) == expected
    products = a[:, :, np.newaxis] * b
    assert as_fractions(products.sum(axis=1)) == expected
    assert as_fractions(products[:, order].cumsum(axis=1)[:, -1]) == expected
    cut = seed % (terms + 1)
    assert as_fractions(a[:, :cut] @ b[:cut] + a[:, cut:] @ b[cut:]) == expected
    assert as_fractions(np.einsum("ik,kj->ij", a, b)) == expected


def largest_operands(bits: int, other_bits: int) -> tuple[list[int], list[int]]:
    """Two terms whose sum is odd, and as large as it can be."""
    return [2**bits - 1, 2**bits], [2**other_bits - 1, 2**other_bits]


def sum_of_products(a: Sequence[int], b: Sequence[int]) -> tuple[Fraction, int]:
    """In float64, and exactly."""
    floats = np.array([a], np.float64) @ np.array(b, np.float64)
    return Fraction(float(floats[0])), sum(x * y for x, y in zip(a, b, strict=True))


def test_one_bit_more_is_caught() -> None:
    require_exact(26, 26, 2)
    found, exact = sum_of_products(*largest_operands(26, 26))
    assert found == exact
    for bits, other_bits in ((27, 26), (26, 27)):
        found, exact = sum_of_products(*largest_operands(bits, other_bits))
        assert found != exact
        with pytest.raises(ValueError, match="need 54 bits, but float64 has 53: they are not"):
            require_exact(bits, other_bits, 2)


def test_with_one_bit_more_the_order_decides() -> None:
    a, b = np.array([2.0**26, 2.0**26, 1, 1]), np.array([2.0**26, 2.0**26, 1, 1])
    one_order, other_order = (a * b).cumsum()[-1], (a * b)[::-1].cumsum()[-1]
    assert one_order != other_order
    with pytest.raises(ValueError, match="sums of 4 products of 26 and 26 bits need 54"):
        require_exact(26, 26, 4)
    require_exact(26, 25, 4)


@many
@given(terms=st.lists(st.integers(1, 2**31), min_size=1, max_size=3))
def test_operands_have_as_many_bits_as_their_sums_allow(terms: list[int]) -> None:
    bits = operand_bits(*terms)
    for count in terms:
        require_exact(bits, bits, min(count, MOST_TERMS))  # longer ones are split
        assert bits_of_terms(count) == math.ceil(math.log2(count))
    if bits < MOST_BITS:
        with pytest.raises(ValueError, match="not exact"):
            require_exact(bits + 1, bits + 1, min(max(terms), MOST_TERMS))


@many
@given(drawn=operands())
def test_a_fused_multiplication_and_addition_rounds_nothing_either(
    drawn: tuple[Floats, Floats, int, int],
) -> None:
    """Every partial sum is a float64 number, so it does not matter how often it is rounded."""
    a, b, *_ = drawn
    partial = Fraction(0)
    for x, y in zip(a[0].tolist(), b[:, 0].tolist(), strict=True):
        partial += Fraction(x) * Fraction(y)
        assert Fraction(float(partial)) == partial
        assert Fraction(x * y) == Fraction(x) * Fraction(y)


@pytest.mark.parametrize(
    ("matrix", "bits"),
    [([[1]], 0), ([[1, 1]], 1), ([[1, -1, 1]], 2), ([[4, 0], [0, 1]], 2), ([[0.5, 0.25]], 2),
     ([[1, 2, 4, 8]], 4), ([[0.25], [3]], 4)],
)  # fmt: skip
def test_bits_that_a_constant_matrix_adds_by_hand(matrix: list[list[float]], bits: int) -> None:
    assert bits_of_transform(np.array(matrix, np.float64)) == bits


@many
@given(
    matrix=st.lists(st.sampled_from([-5.25, -2.0, -1.0, 0.0, 0.25, 0.5, 1.0, 4.0]), min_size=3,
                    max_size=8).filter(any),
    values=st.lists(st.integers(-(2**20), 2**20), min_size=8, max_size=8),
)  # fmt: skip
def test_a_product_with_a_constant_matrix_has_no_more_bits_than_that(
    matrix: list[float], values: list[int]
) -> None:
    exact = sum(Fraction(w) * v for w, v in zip(matrix, values, strict=False))
    in_units = exact * max(Fraction(w).denominator for w in matrix)
    assert in_units.denominator == 1
    assert abs(in_units) <= 2 ** (20 + bits_of_transform(np.array([matrix])))


def test_a_product_is_nan_without_both_grids() -> None:
    assert nan_without_grid(1.0, 2.0) == 0
    for bounds in ((math.nan, 1.0), (1.0, math.nan)):
        assert math.isnan(nan_without_grid(*bounds))


@pytest.mark.parametrize(
    "shape", [(0,), (3,), (PART,), (3, PART), (2, 5, 7, PART // 30), (PART, 2)]
)
def test_parts_are_all_of_an_array(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    for part in parts(x):
        part += 1
        assert part.size <= 2 * PART
    assert (x == 1).all()
