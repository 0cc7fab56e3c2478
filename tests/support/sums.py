"""Products of matrices whose sums are computed in other orders, in place of ``numpy.matmul``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Multiply = Callable[..., Array]
MATMUL = np.matmul
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def matmul_by(sums: Multiply) -> Multiply:
    """``np.matmul`` with the products of two stacks of matrices computed by ``sums``."""

    def multiply(a: Array, b: Array, out: Array | None = None) -> Array:
        result = sums(a, b[:, np.newaxis])[..., 0] if b.ndim == 1 else sums(a, b)
        if out is None:
            return result
        out[...] = result
        return out

    return multiply


@matmul_by
def reversed_sums(a: Array, b: Array) -> Array:
    """Each sum from its last term to its first, one term after another."""
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*outer, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    for k in reversed(range(a.shape[-1])):
        total += a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


@matmul_by
def sums_in_blocks(a: Array, b: Array) -> Array:
    """The sums of blocks of terms, added up."""
    block = 7
    total = MATMUL(a[..., :block], b[..., :block, :])
    for k in range(block, a.shape[-1], block):
        total += MATMUL(a[..., k : k + block], b[..., k : k + block, :])
    return total


@matmul_by
def skipping_zeros(a: Array, b: Array) -> Array:
    """Zeros in ``a`` are skipped, so that 0 times NaN is 0."""
    terms = np.where(a[..., np.newaxis] == 0, 0, a[..., np.newaxis] * b[..., np.newaxis, :, :])
    return terms.sum(axis=-2, dtype=terms.dtype)


def checked(inexact: set[Shapes]) -> Multiply:
    """Products that note the shapes (without stacks) of operands for which the order matters."""

    def sums(a: Array, b: Array) -> Array:
        result = MATMUL(a, b)
        if (result != reversed_sums(a, b)).any():
            inexact.add((a.shape[-2:], b.shape[-2:]))
        return result

    return matmul_by(sums)


ORDERS: list[Multiply] = [reversed_sums, sums_in_blocks]
