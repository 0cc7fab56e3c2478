"""Elementary functions of single IEEE operations: their errors against decimal arithmetic of 60
digits, and what they make of special values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from distcnn.errors import ArgumentError
from distcnn.nn import portable
from distcnn.portable import functions
from distcnn.portable.functions import cos_2pi, log_of_positive

many = settings(deadline=None, derandomize=True, max_examples=400)
PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899863"
)
ONE_ARGUMENT = (
    *("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "sqrt", "sin", "cos", "cos_2pi"),
)
nan, inf = math.nan, math.inf
Exact = Callable[[Decimal], Decimal]


def of(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(portable, name)
    return function


def ulps(value: float, exact: Decimal) -> float:
    """The error of ``value`` in units of the last place of the exact result."""
    return float(abs(Decimal(value) - exact) / Decimal(math.ulp(float(exact))))


def magnitudes(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of all magnitudes from 10**low to 10**high, and both signs."""
    return st.builds(
        lambda sign, exponent: float(sign * 10.0**exponent),
        st.sampled_from([-1.0, 1.0]),
        st.floats(low, high),
    )


# -- errors


@many
@given(x=st.floats(-708, 709).filter(lambda x: abs(x) > 1e-17) | magnitudes(-17, 2))
@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("exp", Decimal.exp),
        ("expm1", lambda x: x.exp() - 1),
        ("tanh", lambda x: 1 - 2 / ((2 * x).exp() + 1)),
        ("sigmoid", lambda x: 1 / (1 + (-x).exp())),
    ],
)
def test_exponentials(name: str, exact: Exact, x: float) -> None:
    with localcontext(prec=60):
        expected = exact(Decimal(x))
    assert ulps(of(name)(x), expected) < 4


@many
@given(x=st.floats(2.3e-308, 1.7e308) | st.floats(0.4, 2.5) | magnitudes(-12, 0).map(abs))
@pytest.mark.parametrize(
    ("name", "exact"), [("log", Decimal.ln), ("log1p", lambda x: (1 + x).ln())]
)
def test_logarithms(name: str, exact: Exact, x: float) -> None:
    with localcontext(prec=400):
        expected = exact(Decimal(x))
    assert ulps(of(name)(x), expected) < 6


@many
@given(x=st.floats(-0.999, 0.5).filter(lambda x: abs(x) > 1e-17) | magnitudes(-12, -1))
def test_log1p_of_numbers_near_and_below_0(x: float) -> None:
    with localcontext(prec=60):
        expected = (1 + Decimal(x)).ln()
    assert ulps(portable.log1p(x), expected) < 6


def sine(x: Decimal) -> Decimal:
    """By its series, after a reduction to [-pi, pi]."""
    x -= (x / (2 * PI)).to_integral_value() * 2 * PI
    term, total, k = x, x, 1
    while abs(term) > Decimal("1e-40"):
        term *= -x * x / ((k + 1) * (k + 2))
        total, k = total + term, k + 2
    return total


@many
@given(x=st.floats(-20, 20) | magnitudes(-12, 12))
def test_sine_and_cosine(x: float) -> None:
    with localcontext(prec=80):
        expected, of_cosine = sine(Decimal(x)), sine(Decimal(x) + PI / 2)
    assert abs(Decimal(float(portable.sin(x))) - expected) < Decimal("3e-16")
    assert abs(Decimal(float(portable.cos(x))) - of_cosine) < Decimal("3e-16")


@given(u=st.floats(0, 1) | st.floats(-1e9, 1e9))
@many
def test_cosine_of_turns(u: float) -> None:
    with localcontext(prec=80):
        expected = sine((Decimal(u) + Decimal(1) / 4) * 2 * PI)
    assert abs(Decimal(float(cos_2pi(u))) - expected) < Decimal("2e-15")


def test_the_largest_arguments_of_sine_and_cosine() -> None:
    """Values of the GNU C library, which rounds them correctly."""
    x = [1e22, 1e300, -1e300, 2.0**1000, math.nextafter(math.inf, 0)]
    assert portable.sin(x) == pytest.approx([math.sin(each) for each in x], abs=3e-16)
    assert portable.cos(x) == pytest.approx([math.cos(each) for each in x], abs=3e-16)


def test_logarithm_and_cosine_of_random_numbers() -> None:
    u = np.concatenate([np.random.default_rng(0).random(20_000), [2.0**-53, 0.5, 0.25, 0.75, 1.0]])
    u = u[u > 0]
    assert np.abs(log_of_positive(u) - [math.log(x) for x in u]).max() < 1e-14
    assert np.abs(cos_2pi(u) - [math.cos(2 * math.pi * x) for x in u]).max() < 2e-15


@many
@given(x=st.floats(0, allow_infinity=False, width=32))
def test_float32_roots_are_rounded_correctly(x: float) -> None:
    root = portable.sqrt(np.float32(x))
    assert isinstance(root, np.float32)
    ends = [np.nextafter(root, np.float32(end)) for end in (-1, np.inf)]
    lower, upper = ((Fraction(float(root)) + Fraction(float(end))) / 2 for end in ends)
    assert max(lower, Fraction(0)) ** 2 <= Fraction(x) <= upper**2


@many
@given(base=st.floats(0.5, 1.0), exponent=st.integers(0, 5000))
def test_power_is_repeated_squaring(base: float, exponent: int) -> None:
    exact = Fraction(base) ** exponent
    found = functions.power(base, exponent)
    if exact > Fraction(2) ** -1000:
        assert abs(Fraction(found) - exact) <= exact * (2 * exponent + 2) * Fraction(2) ** -53
    assert portable.power(base, exponent) == found
    assert portable.power([base], exponent).tolist() == [found]
    if found:
        assert portable.power(base, -exponent) == 1 / found


def test_power_by_hand_and_what_it_refuses() -> None:
    assert functions.power(3.0, 0) == 1
    assert functions.power(3.0, 5) == 243
    assert_array_equal(portable.power([[-2.0, 0.0], [np.inf, 0.5]], 3), [[-8, 0], [np.inf, 0.125]])
    assert_array_equal(portable.power([0.0, 4.0, -np.inf], -1), [np.inf, 0.25, 0])
    assert portable.power(np.float32(1.1), 2) == np.float32(np.float64(np.float32(1.1)) ** 2)
    with pytest.raises(ArgumentError, match=r"exponent is 0\.5.*sqrt"):
        portable.power(2.0, 0.5)  # type: ignore[arg-type]


# -- sums


def halves(terms: list[float]) -> float:
    """The order of ``total``, one number at a time."""
    while len(terms) > 1:
        half, odd = divmod(len(terms), 2)
        rest = terms[-1:] if odd else []
        terms = [a + b for a, b in zip(terms[:half], terms[half : 2 * half], strict=True)] + rest
    return terms[0] if terms else 0.0


@many
@given(terms=st.lists(st.floats(-1e6, 1e6), max_size=70), axis=st.integers(-2, 1))
def test_sums_have_a_fixed_order(terms: list[float], axis: int) -> None:
    x = np.array(terms, np.float64)
    table = np.stack([x, x[::-1], np.zeros_like(x)], axis=-1 if axis % 2 == 0 else 0)
    expected = [halves(terms), halves(terms[::-1]), 0.0]
    assert portable.total(table, axis).tolist() == expected
    assert functions.total(table.copy(order="F"), axis).tolist() == expected
    assert portable.total(x) == halves(terms)
    exact = sum(map(Fraction, terms), Fraction(0))
    bound = sum(map(abs, map(Fraction, terms)), Fraction(0)) * 8 * Fraction(2) ** -53
    assert abs(Fraction(float(portable.total(x))) - exact) <= bound
    if terms:
        assert portable.mean(x) == halves(terms) / len(terms)
        assert portable.mean(table, axis).tolist() == [each / len(terms) for each in expected]


def test_sums_of_special_values_types_and_shapes() -> None:
    assert portable.total([]) == 0
    assert portable.total(np.zeros((0, 3)), axis=0).tolist() == [0, 0, 0]
    assert portable.total(np.zeros((0, 3)), axis=1).shape == (0,)
    assert portable.total(5) == 5
    assert portable.total([[1, 2], [3, 4]]) == 10
    assert math.isnan(portable.mean([]))
    assert math.isnan(portable.total([math.inf, 1.0, -math.inf]))
    assert portable.total([math.inf, 1.0]) == math.inf
    assert portable.total([1e308, 1e308]) == math.inf
    assert portable.total([5e-324, 5e-324]) == 1e-323
    assert portable.total(np.full(3, 0.1, np.float32)).dtype == np.float32
    assert portable.mean(np.full(3, 0.1, np.float32)) == np.float32(0.1)


@many
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
    keepdims=st.booleans(),
)
def test_sums_along_several_axes(shape: list[int], data: st.DataObject, keepdims: bool) -> None:
    """Terms come in the order of their indices, however the array lies and axes are listed."""
    x = np.sin(np.arange(math.prod(shape), dtype=np.float64)).reshape(shape)
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True).map(tuple))
    expected = np.zeros([1 if at in axes else length for at, length in enumerate(shape)])
    for place in np.ndindex(expected.shape):
        chosen = tuple(slice(None) if at in axes else index for at, index in enumerate(place))
        expected[place] = halves(x[chosen].reshape(-1).tolist())
    if not keepdims:
        expected = np.squeeze(expected, axes)
    for given_axes in (axes, tuple(axis - len(shape) for axis in axes)):
        for laid_out in (x, x.copy(order="F")):
            assert_array_equal(portable.total(laid_out, given_axes, keepdims), expected)
    count = math.prod(shape[axis] for axis in axes)
    with np.errstate(all="ignore"):
        assert_array_equal(portable.mean(x, axes, keepdims), expected / count)
    assert portable.total(x, keepdims=True).shape == (1,) * len(shape)
    assert portable.mean(x.astype(np.float32), axes).dtype == np.float32


@pytest.mark.parametrize("axis", [2, -3, (0, 5), (0, 0), (1, -1), 1.0, "0", [0, 1], (0, None)])
@pytest.mark.parametrize("function", [portable.total, portable.mean])
def test_axes_that_do_not_fit_are_named(function: Callable[..., Any], axis: object) -> None:
    with pytest.raises(ValueError, match=r"axis is .*(dimensions is 2|integer)"):
        function(np.zeros((3, 4)), axis=axis)


# -- special values, types, out


@pytest.mark.parametrize(
    ("name", "arguments", "results"),
    [
        ("exp", [nan, inf, -inf, 0.0, -0.0, 710, -746], [nan, inf, 0, 1, 1, inf, 0]),
        ("exp", [-745.13, 5e-324, -5e-324], [5e-324, 1, 1]),
        ("expm1", [nan, inf, -inf, 0.0, 5e-324], [nan, inf, -1, 0, 5e-324]),
        ("log", [nan, inf, 0.0, -0.0, -1, -inf, 1], [nan, inf, -inf, -inf, nan, nan, 0]),
        ("log1p", [nan, inf, 0.0, -1, -2, 1e-300], [nan, inf, 0, -inf, nan, 1e-300]),
        ("tanh", [nan, inf, -inf, 0.0, -0.0, 30, 5e-324], [nan, 1, -1, 0.0, -0.0, 1, 5e-324]),
        ("sigmoid", [nan, inf, -inf, 0.0, -0.0, -746, 5e-324], [nan, 1, 0, 0.5, 0.5, 0, 0.5]),
        ("sqrt", [nan, inf, 0.0, -0.0, -1, 4], [nan, inf, 0.0, -0.0, nan, 2]),
        ("sin", [nan, inf, -inf, 0.0, -0.0, 5e-324], [nan, nan, nan, 0.0, -0.0, 5e-324]),
        ("cos", [nan, inf, -inf, 0.0, -0.0, 5e-324], [nan, nan, nan, 1, 1, 1]),
        ("cos_2pi", [nan, 0, 0.5, 1, -3.5, 1e300, inf], [nan, 1, -1, 1, -1, 1, nan]),
    ],
)  # fmt: skip
def test_special_values(name: str, arguments: list[float], results: list[float]) -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        found = of(name)(np.array(arguments))
    assert_array_equal(found, results)
    zeros = np.flatnonzero(np.array(results) == 0)
    assert_array_equal(np.signbit(found[zeros]), np.signbit(np.array(results)[zeros]))


def test_exp_of_less_gives_subnormals_as_long_as_there_are_any() -> None:
    for x in (-708.5, -720.0, -740.0, -744.9):
        assert float(portable.exp(x)) == pytest.approx(math.exp(x), rel=1e-2, abs=5e-324)


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_types_shapes_and_out(name: str) -> None:
    function = of(name)
    x = np.array([[0.1, 0.25, 0.7]])
    expected = function(x)
    assert expected.dtype == np.float64
    assert_array_equal(function(x.tolist()), expected)
    assert type(function(0.25)) is np.float64
    assert function(0.25) == expected[0, 1]
    assert function(1).dtype == np.float64
    assert function(np.zeros((0, 2))).shape == (0, 2)
    assert_array_equal(function(x.T), expected.T)
    single = function(x.astype(np.float32))
    assert single.dtype == np.float32
    assert_array_equal(single, function(x.astype(np.float32).astype(np.float64)).astype(np.float32))
    out = np.empty((1, 3), np.float32)
    assert function(x, out=out) is out
    assert_array_equal(out, expected.astype(np.float32))
    assert function(x, out=x) is x
    assert_array_equal(x, expected)
