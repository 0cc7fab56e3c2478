"""Whether this machine computes as portable arithmetic assumes; it takes a few milliseconds.

Outside the promise are a flush-to-zero mode that another library has switched on, the x87 unit with
its 64 bits, and a BLAS that computes in fewer bits than its operands have.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from distcnn.portable import functions as f
from distcnn.portable import trigonometry
from distcnn.portable.grids import FLOAT32_PRECISION, PRECISION, bits_of_terms, require_exact

Floats = NDArray[np.float64]

REFERENCE_SHA256 = "f6e6cac4efadc2d0e1389d8b99419a134f994a65dab1a08c9c56c0b767dfccec"
"""What ``reference_sha256`` is on every machine."""
PRODUCTS = ((33, 512, 29), (1, 2048, 70), (64, 1000, 1), (70, 100, 60))
"""(m, k, n) of matrix products that use several kernels of a BLAS and have partial blocks."""
LANES = 17
"""Copies of a number, for loops over vectors and what they leave over."""
SUMS, MULTIPLICATIONS, DIVISIONS, ROOTS = (
    [[float.fromhex(word) for word in case.split()] for case in cases]
    for cases in (
        (
            "0x1.6684771491b28p+52 0x1.74a33cb200053p+30 0x1.66847ce71ea55p+52",
            "0x1.759eeea1ddd31p+52 0x1.1ccd03d61f801p+40 0x1.75b0bb721b351p+52",
        ),
        (
            "0x1.8e5ab218ae239p+52 0x1.88814054acb14p+52 0x1.31620041fc0bdp+105",
            "0x1.f645b0a4428b9p+52 0x1.294dabcd4c96cp+52 0x1.23a79efc05d65p+105",
        ),
        (
            "0x1.43e06f780b96ep+52 0x1.a99b554eeec55p+52 0x1.859eb24e7db63p-1",
            "0x1.c3f00ea8e493bp+52 0x1.778cf9fc61cd5p+52 0x1.341206ce1c893p+0",
        ),
        (
            "0x1.f4e8eea0e719bp+52 0x1.6618a48f99e23p+26",
            "0x1.7fb707a3f99f5p+52 0x1.396b159c960afp+26",
        ),
    )
)
"""Operands and the correctly rounded result, which rounding to 64 bits first gets wrong."""


def problem() -> str:
    """The first thing that this machine computes differently, as text; empty if there is none."""
    with np.errstate(all="ignore"):
        for wrong, text in _CHECKS.items():
            if wrong():
                return text
    return ""


def reference_sha256() -> str:
    """SHA-256 of the results of all functions, and of exact products, for fixed arguments."""
    digest = hashlib.sha256()
    with np.errstate(all="ignore"):
        for results in _results():
            digest.update(np.ascontiguousarray(results, "<f8").tobytes())
    return digest.hexdigest()


def _results() -> Iterator[Floats]:
    random = _fractions(1000)
    spread = np.ldexp(random + 0.5, np.arange(-1000, 1000, 2))
    signed = np.concatenate([random * 80 - 40, spread, -spread, [0.0, -0.0, np.inf, -np.inf]])
    positive = np.concatenate([random * 4, spread, [0.0, np.inf, 5e-324]])
    yield from (function(signed) for function in (f.exp, f.expm1, f.tanh, f.sigmoid))
    yield from (function(positive) for function in (f.log, f.log1p, f.sqrt))
    turned = np.concatenate([random * 2000 - 1000, [0.0, 1e5, 2.0**20, 1e22, 2.0**1000]])
    yield from (function(turned) for function in (trigonometry.sin, trigonometry.cos))
    yield f.cos_2pi(np.concatenate([random, [0.0, 0.25, 0.5, 0.75, 1.0]]))
    yield np.array([f.power(1 - 2.0**-k, 3**k) for k in range(1, 20)])
    yield f.total(random.reshape(-1, 2))
    yield from (np.matmul(a, b) + 0.0 for a, b in _operands())


def _fractions(count: int) -> Floats:
    """Random numbers in [0, 1), multiples of 2**-53: the same with every NumPy."""
    words = np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _operands(precision: int = PRECISION) -> Iterator[tuple[Floats, Floats]]:
    """Operands of ``PRODUCTS``: integers of as many bits as are exact, the largest in each."""
    for m, k, n in PRODUCTS:
        left = (precision - bits_of_terms(k)) // 2
        right = precision - bits_of_terms(k) - left
        require_exact(left, right, k, precision)
        numbers = _fractions(m * k + k * n) * 2 - 1
        a, b = numbers[: m * k].reshape(m, k), numbers[m * k :].reshape(k, n)
        a, b = np.rint(a * 2.0**left), np.rint(b * 2.0**right)
        a[-1], b[:, -1] = 2.0**left, 2.0**right
        yield a, b


def _products_round(dtype: type[np.floating], precision: int) -> bool:
    return any(
        not np.array_equal(
            np.matmul(a.astype(dtype), b.astype(dtype)), a.astype(np.int64) @ b.astype(np.int64)
        )
        for a, b in _operands(precision)
    )


def _subnormals_are_lost() -> bool:
    """Compared as words, because zero and a subnormal number may count as equal."""
    words = np.arange(2, 2 + 2 * LANES, 2, dtype=np.uint64)
    narrow = np.arange(2, 2 + 2 * LANES, 2, dtype=np.uint32)
    halves = words.view(np.float64) * 0.5, narrow.view(np.float32) * np.float32(0.5)
    widened = narrow.view(np.float32).astype(np.float64) * 2.0**149
    return not (
        np.array_equal(halves[0].view(np.uint64), words // np.uint64(2))
        and np.array_equal(halves[1].view(np.uint32), narrow // np.uint32(2))
        and np.array_equal(widened, np.arange(2.0, 2 + 2 * LANES, 2))
    )


def _rounding_is_wrong() -> bool:
    cases: tuple[tuple[Callable[..., Floats], list[list[float]]], ...] = (
        *((np.add, SUMS), (np.multiply, MULTIPLICATIONS)),
        *((np.divide, DIVISIONS), (np.sqrt, ROOTS)),
    )
    return any(
        np.any(operation(*(np.full(LANES, number) for number in operands)) != result)
        for operation, examples in cases
        for *operands, result in examples
    )


def _python_rounds_wrongly() -> bool:
    """Python's own floats, of which learning rates are made."""
    cases: tuple[tuple[Callable[..., float], list[list[float]]], ...] = (
        *((operator.add, SUMS), (operator.mul, MULTIPLICATIONS)),
        *((operator.truediv, DIVISIONS), (math.sqrt, ROOTS)),
    )
    return any(
        operation(*operands) != result
        for operation, examples in cases
        for *operands, result in examples
    )


_CHECKS: dict[Callable[[], bool], str] = {
    _subnormals_are_lost: "subnormal numbers become 0 (a library has switched on flush-to-zero)",
    _rounding_is_wrong: "+, *, / or square root of float64 is not rounded correctly (x87?)",
    _python_rounds_wrongly: "Python's own floats are not rounded correctly (x87?)",
    partial(_products_round, np.float64, PRECISION): (
        "matrix products of float64 are not exact where they must be (NumPy's BLAS)"
    ),
    partial(_products_round, np.float32, FLOAT32_PRECISION): (
        "matrix products of float32 are not exact where they must be (NumPy's BLAS)"
    ),
    lambda: reference_sha256() != REFERENCE_SHA256: (
        "the portable functions do not give the reference hash"
    ),
}
