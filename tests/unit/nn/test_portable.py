"""``nn.portable.matmul``: against rational arithmetic, on its grids, for all shapes and values."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import distcnn
from distcnn.nn import portable
from distcnn.portable.grids import operand_bits, round_to_grid

many = settings(deadline=None, derandomize=True, max_examples=100)


def test_it_is_an_attribute_and_names_all_that_it_offers() -> None:
    assert distcnn.nn.portable is portable
    for name in portable.__all__:
        assert getattr(portable, name).__doc__
        assert name in str(portable.__doc__)


@many
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 30), st.integers(0, 3)),
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
)
def test_a_product_of_float32_is_that_of_the_rounded_operands_exactly(
    shape: tuple[int, int, int], seed: int, exponents: tuple[int, int]
) -> None:
    rows, terms, columns = shape
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal((rows, terms)) * 2.0 ** exponents[0]).astype(np.float32)
    b = (rng.standard_normal((terms, columns)) * 2.0 ** exponents[1]).astype(np.float32)
    kept = np.empty(a.shape), np.empty(b.shape)
    for operand, out in zip((a, b), kept, strict=True):
        round_to_grid(operand, operand_bits(terms), out)
    x, y = kept
    found = portable.matmul(a, b)
    assert found.shape == (rows, columns)
    for i in range(rows):
        for j in range(columns):
            exact = sum(Fraction(p) * Fraction(q) for p, q in zip(x[i], y[:, j], strict=True))
            assert found[i, j] == np.float32(float(exact))


@many
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 3)),
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(st.integers(-150, 90), st.integers(-150, 90)),
)
def test_a_product_of_float64_is_nearly_as_precise(
    shape: tuple[int, int, int], seed: int, exponents: tuple[int, int]
) -> None:
    rows, terms, columns = shape
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rows, terms)) * 2.0 ** exponents[0]
    b = rng.standard_normal((terms, columns)) * 2.0 ** exponents[1]
    found = portable.matmul(a, b)
    limit = Fraction(float(np.abs(a).max())) * Fraction(float(np.abs(b).max())) * terms
    for i in range(rows):
        for j in range(columns):
            exact = sum(Fraction(p) * Fraction(q) for p, q in zip(a[i], b[:, j], strict=True))
            assert abs(Fraction(float(found[i, j])) - exact) <= limit / 2**42


@pytest.mark.parametrize("terms", [0, 1, 2, 511, 512, 513, 1024, 3000])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_long_sums_are_split_and_their_parts_have_no_order(
    terms: int, kind: type[np.floating]
) -> None:
    rng = np.random.default_rng(terms)
    a = rng.standard_normal((5, terms)).astype(kind)
    b = rng.standard_normal((terms, 4)).astype(kind)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = portable.matmul(a, b)
    assert found.dtype == kind
    error = 5e-6 if kind is np.float32 else 1e-12
    assert_allclose(found, exact, rtol=0, atol=error * math.sqrt(terms))
    order = rng.permutation(min(terms, 512))
    others = np.arange(len(order), terms)
    within = np.concatenate([order, others])  # the order within a part is free
    assert_array_equal(portable.matmul(a[:, within], b[within]), found)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        *(
            ((3,), (3,)),
            ((2, 3), (3,)),
            ((3,), (3, 2)),
            ((5, 2, 3), (3, 4)),
            ((5, 2, 3), (5, 3, 4)),
        ),
        *(((600,), (600,)), ((2, 600), (600,)), ((600,), (600, 2)), ((4, 1, 600), (4, 600, 2))),
        *(((0, 3), (3, 2)), ((2, 0), (0, 3)), ((0,), (0,))),
    ],
)
def test_shapes_are_those_of_numpy(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, left), rng.integers(-9, 9, right)
    found = portable.matmul(a, b)
    assert_array_equal(found, np.matmul(a, b))
    assert found.dtype == np.float64


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3), (4, 3)), ((2, 512), (900, 3)), ((), (3,)), ((3,), ()), ((0,), (2,))],
)
def test_shapes_that_do_not_fit_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="matmul: "):
        portable.matmul(np.ones(left), np.ones(right))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**100, 1e300])
def test_what_has_no_grid_makes_all_nan_on_either_side(value: float) -> None:
    bad = np.array([[1.0, 0.0], [value, 0.0]])
    for a, b in ((bad, np.zeros((2, 2))), (np.eye(2), bad), (bad, bad)):
        assert np.isnan(portable.matmul(a, b)).all()


def test_zeros_subnormals_and_signs_of_zero() -> None:
    tiny = np.full((2, 2), 5e-324)
    for a, b in ((np.zeros((2, 2)), -np.ones((2, 2))), (tiny, tiny), (-tiny, np.ones((2, 2)))):
        found = portable.matmul(a, b)
        assert_array_equal(found, np.zeros((2, 2)))
        assert not np.signbit(found).any()
    rows = np.array([[0.0, 0.0], [1.0, -1.0]])
    assert_array_equal(portable.matmul(rows, [[1.0], [1.0]]), [[0.0], [0.0]])
    small = np.array([[1e-45]], np.float32)
    assert portable.matmul(small, np.ones((1, 1), np.float32)) == small


def test_operands_are_left_alone_and_lists_are_accepted() -> None:
    a: Any = np.array([[1 / 3, 2 / 3]])
    before = a.copy()
    portable.matmul(a, a.T)
    assert_array_equal(a, before)
    assert portable.matmul([1, 2], [3, 4]) == 11
    assert type(portable.matmul([1, 2], [3, 4])) is np.float64
    np.testing.assert_array_equal(
        portable.matmul(a[:, ::-1], a.T), portable.matmul(a, a[:, ::-1].T)
    )
