"""What layers, activations, losses and schedules of your own need for the same bits on every
machine (docs/portable.md), beside operations that are the same anyway: ``+ - * /``, comparisons,
``numpy.maximum``, ``minimum``, ``abs``, ``where``, rounding, indexing, reshaping.

    from distcnn.nn import portable

    def function(self, x, out):                  # of an activation: softplus
        portable.log1p(portable.exp(-np.abs(x)), out=out)
        out += np.maximum(x, 0)

All take arrays or numbers and compute in float64; a float32 argument gives a float32 result, any
other a float64. Infinities and NaN give what NumPy gives, without warnings. The functions of one
argument take ``out``, an array for the result, which may be the argument.

Functions:
    exp, expm1, log, log1p, tanh, sigmoid, sqrt, sin, cos: elementwise; ``sqrt`` is correctly
        rounded, the others are within 6 units in the last place (sin and cos within 3e-16).
    cos_2pi: cos(2 pi u), of any u.
    power: integer powers.
    total, mean: along one axis, several or all, in a fixed order; with ``keepdims``.
    matmul: products of matrices.
    softmax_cross_entropy, squared_error: the losses, to build yours on.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.errors import ArgumentError
from distcnn.nn.losses import portable_softmax_cross_entropy as softmax_cross_entropy
from distcnn.nn.losses import portable_squared_error as squared_error
from distcnn.portable import functions, grids
from distcnn.portable.functions import cos_2pi, exp, expm1, log, log1p, sigmoid, sqrt, tanh
from distcnn.portable.trigonometry import cos, sin

__all__ = [
    "cos",
    "cos_2pi",
    "exp",
    "expm1",
    "log",
    "log1p",
    "matmul",
    "mean",
    "power",
    "sigmoid",
    "sin",
    "softmax_cross_entropy",
    "sqrt",
    "squared_error",
    "tanh",
    "total",
]

Floats = NDArray[np.float64]
Axis = int | tuple[int, ...] | None

TERMS_AT_ONCE = 512
"""Longer sums of products are split, so that operands keep 22 bits."""


def power(base: ArrayLike, exponent: int) -> Any:
    """``base ** exponent``, elementwise, by repeated squaring: for ``x ** 3`` and the like.

    Args:
        base: an array of any shape, or a number.
        exponent: an integer; below 0 the result is ``1 / base ** -exponent``. For others compute
            ``exp(exponent * log(base))``.

    Raises:
        ArgumentError: ``exponent`` is not an integer.
    """
    if not isinstance(exponent, Integral):
        raise ArgumentError(
            f"exponent is {exponent!r}: portable.power takes integers; for others compute"
            " portable.exp(exponent * portable.log(base)), or portable.sqrt(base) for 0.5"
        )
    given = np.asarray(base)
    result, square, left = np.ones(given.shape), given.astype(np.float64), abs(int(exponent))
    with np.errstate(all="ignore"):
        while left:
            if left & 1:
                result = result * square
            left >>= 1
            square = square * square if left else square
        result = 1.0 / result if exponent < 0 else result
    return _like(result, given)


def total(x: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Any:
    """The sum along one or several axes: halves are added element by element until one is left
    (pairwise summation, whose error grows with the logarithm of the number of terms).

    The order depends only on the shape and the axes, not on the memory layout. Terms along several
    axes are added in index order, the last axis varying fastest, whatever the order of ``axis``.

    Args:
        x: an array (or a number, whose total is itself).
        axis: the axis that disappears, or a tuple of them; None adds all elements.
        keepdims: the axes stay, with length 1.

    Returns:
        The sums; 0 where there are no terms.

    Raises:
        ArgumentError: a ``ValueError``, where ``axis`` does not fit.
    """
    given = np.asarray(x)
    axes = _axes(axis, given.ndim)
    kept = [length for at, length in enumerate(given.shape) if at not in axes]
    terms = np.moveaxis(given, axes, range(len(axes))).reshape(_count(given, axes), *kept)
    sums = np.asarray(functions.total(terms))
    return (np.expand_dims(sums, axes) if keepdims else sums)[()]


def mean(x: ArrayLike, axis: Axis = None, keepdims: bool = False) -> Any:
    """The mean along one or several axes: ``total`` divided by the number of terms.

    Args:
        x, axis, keepdims: as for ``total``.

    Returns:
        The means; NaN where there are no terms.

    Raises:
        ArgumentError: as ``total``.
    """
    given = np.asarray(x)
    count = _count(given, _axes(axis, given.ndim))
    with np.errstate(all="ignore"):
        sums = total(given.astype(np.float64), axis, keepdims)
        return _like(np.divide(sums, float(count)), given)


def matmul(a: ArrayLike, b: ArrayLike) -> Any:
    """The product of two matrices, as ``numpy.matmul``, on rounded copies of both.

    So that no product and no sum of K terms rounds, whatever the order, the copies have (53 -
    log2(K)) / 2 bits, at most 24 and at least 22: each element is rounded to the nearest multiple
    of 2**-bits times the power of two above the largest magnitude of its operand
    (``distcnn.portable.grids`` has the proof). That is about the precision of float32, if the
    elements of an operand are of similar magnitudes. Unless both operands are float32, what
    rounding has taken away is multiplied, too, in two more products: together twice the bits. Sums
    of more than 512 terms are split; the parts are added in order.

    Args:
        a: (..., M, K) or (K,).
        b: (..., K, N) or (K,).

    Returns:
        (..., M, N), as ``numpy.matmul``: float32 if both operands are, else float64. All NaN if an
        operand has a NaN, an infinity, or a magnitude of 2**100 or more. Magnitudes far below
        2**-200 count as 0, and no zero is negative.

    Raises:
        ValueError: as ``numpy.matmul``, for shapes that do not fit.
    """
    left, right = np.asarray(a), np.asarray(b)
    if not left.ndim or not right.ndim or left.shape[-1] != right.shape[-2:][0]:
        return np.matmul(left, right)  # which refuses them
    bits = grids.operand_bits(min(max(left.shape[-1], 1), TERMS_AT_ONCE))
    is_single = left.dtype == right.dtype == np.float32
    with np.errstate(all="ignore"):
        (x, x_rest), (y, y_rest) = (_rounded(each, bits, not is_single) for each in (left, right))
        result = _product(x, y)
        if x_rest is not None and y_rest is not None:
            result = result + (_product(x, y_rest) + _product(x_rest, y))
        if np.isnan(x).any() or np.isnan(y).any():  # a BLAS may skip products with 0
            result = np.full_like(result, np.nan)
    return (result + 0.0).astype(np.float32 if is_single else np.float64)[()]


def _rounded(x: NDArray[Any], bits: int, with_rest: bool) -> tuple[Floats, Floats | None]:
    """``x`` on its grid; perhaps also what is left of it, on a grid of as many bits."""
    rounded = np.empty(x.shape)
    bound = grids.round_to_grid(x, bits, rounded)
    if not with_rest:
        return rounded, None
    rest = x - rounded  # exact, and at most half a spacing
    grids.round_by(grids.anchor(math.ldexp(bound, -bits - 1), bits), rest, rest)
    return rounded, rest


def _product(x: Floats, y: Floats) -> Floats:
    """The product of matrices on grids, in parts of ``TERMS_AT_ONCE`` terms."""
    terms = x.shape[-1]
    parts = [slice(at, at + TERMS_AT_ONCE) for at in range(0, max(terms, 1), TERMS_AT_ONCE)]
    of_parts = [
        np.matmul(x[..., part], y[..., part, :] if y.ndim > 1 else y[part]) for part in parts
    ]
    result: Floats = of_parts[0]
    for product in of_parts[1:]:
        result = result + product
    return result


def _axes(axis: Axis, dimensions: int) -> tuple[int, ...]:
    """The axes that ``axis`` selects in an array with this many dimensions, ascending."""
    if axis is None:
        return tuple(range(dimensions))
    given: tuple[object, ...] = axis if isinstance(axis, tuple) else (axis,)
    numbers = [int(each) for each in given if isinstance(each, Integral)]
    if len(numbers) < len(given):
        raise ArgumentError(f"axis is {axis!r}: it must be an integer, a tuple of these, or None")
    is_valid = all(-dimensions <= each < dimensions for each in numbers)
    axes = {each % dimensions for each in numbers} if is_valid else set()
    if len(axes) < len(numbers):
        problem = "an axis is repeated" if is_valid else "out of range"
        raise ArgumentError(
            f"axis is {axis!r}: {problem} (the array's number of dimensions is {dimensions})"
        )
    return tuple(sorted(axes))


def _count(x: NDArray[Any], axes: tuple[int, ...]) -> int:
    """How many terms each sum along ``axes`` has."""
    return math.prod(x.shape[each] for each in axes)


def _like(result: ArrayLike, given: NDArray[Any]) -> Any:
    """``result`` in the type that ``given`` stands for."""
    return np.asarray(result).astype(np.float32 if given.dtype == np.float32 else np.float64)[()]
