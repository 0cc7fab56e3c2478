"""The algorithms of a convolution (``algorithms.py``) in portable arithmetic: what they share, and
im2col (Winograd: ``exact_winograd.py``).

The operands of matrix products, which are V, U and dM, are on grids, so that the products are exact
(``distcnn.portable.grids``). With im2col the images d, the weights w and the gradients dy
themselves are rounded, each to a grid that its largest magnitude sets.
"""

from typing import Protocol

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.exact_products import add_in_order, store_gradient
from distcnn.nn.kernels.im2col import TiledIm2col
from distcnn.nn.kernels.steps import Algorithm
from distcnn.nn.layer import Array
from distcnn.portable.grids import (
    FLOAT32_ROUNDED_BITS,
    MOST_TERMS,
    operand_bits,
    require_exact,
    round_to_grid,
)


class ExactAlgorithm(Algorithm, Protocol):
    """An algorithm that is told the bounds of its operands."""

    grad_bits: int
    """To which the gradients of the output are rounded."""
    grad_unit: float
    """In which ``transform_gradient`` returns the gradients for the bias."""
    weight_bound: float
    """Of the latest rounded weights."""
    most_terms: int
    most_columns: int
    """Longer sums, and longer sums over columns for dU, are split: they would not be exact."""

    def round_weights(self, weight: Array, transformed: Array) -> None:
        """Write U, rounded, to ``transformed``, for ``weight`` (O, C, kh, kw)."""

    def begin_forward(self, images: Array) -> float:
        """Take the (padded) images of the pass that follows; return their bound."""

    def begin_backward(self, grad_bound: float) -> None:
        """Take the bound of the output's gradient for the pass that follows."""

    def take_bias(self, bias: Array) -> None:
        """Take the bias (O,) for the pieces that follow."""


class Output:
    """The output of a piece, or its gradient, in the network's type."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        rows, filters = blocking.most_outputs, blocking.geometry.filters
        shape = rows, filters, blocking.columns
        self._by_tile = blocking.tiles, blocking.images
        self._pieces = buffers.zeros((blocking.tiling.tile_width, *shape))
        self._bias = buffers.zeros(shape)  # for whole pieces: long runs of numbers are added faster

    def take_bias(self, bias: Array) -> None:
        np.copyto(self._bias, bias[:, np.newaxis], casting="same_kind")

    def of(self, piece: Piece) -> Array:
        """[k, r, o, t*n]"""
        return self._pieces[:, : piece.height]

    def take(self, piece: Piece, exact: Array) -> None:
        """Take the exact sums, and add the bias."""
        output = self.of(piece)
        np.copyto(output, exact, casting="same_kind")
        by_column = output.reshape(len(output), -1)
        by_column += self._bias[: piece.height].ravel()

    def tiled(self, piece: Piece) -> Array:
        """[k, o, r, t, n]"""
        output = self.of(piece)
        return output.reshape(*output.shape[:3], *self._by_tile).swapaxes(1, 2)


class ExactIm2col(TiledIm2col):
    """Im2col in portable arithmetic, always with a buffer for the products of a piece."""

    grad_unit = 1.0

    def __init__(self, blocking: Blocking, inner: Buffers, buffers: Buffers) -> None:
        super().__init__(blocking, inner)
        self._inner, self._output = inner, Output(blocking, buffers)
        self.most_terms = self.most_columns = MOST_TERMS
        geometry = blocking.geometry
        terms = geometry.kernel[0] * geometry.channels * blocking.tiling.shifts  # kh*C*J
        grad_terms, columns = geometry.kernel[0] * geometry.filters, blocking.columns
        self._row_bits = operand_bits(terms, columns)
        self._weight_bits = operand_bits(terms, grad_terms)
        self.grad_bits = min(FLOAT32_ROUNDED_BITS, operand_bits(columns, grad_terms))
        for bits, other, count in (
            (self._row_bits, self._weight_bits, terms),
            (self._row_bits, self.grad_bits, columns),
            (self._weight_bits, self.grad_bits, grad_terms),
        ):
            require_exact(bits, other, min(count, MOST_TERMS))

    def round_weights(self, weight: Array, transformed: Array) -> None:
        first, *others = transformed  # the same for all points
        self.weight_bound = round_to_grid(weight.swapaxes(1, 2), self._weight_bits, first)
        for copy in others:
            np.copyto(copy, first)

    def take_bias(self, bias: Array) -> None:
        self._output.take_bias(bias)

    def begin_forward(self, images: Array) -> float:
        self._rounded = self._inner.scratch("rounded images", images, self._inner.dtype)
        return round_to_grid(images, self._row_bits, self._rounded)

    def transform_input(self, x: Array, piece: Piece) -> None:
        super().transform_input(self._rounded, piece)

    def begin_backward(self, grad_bound: float) -> None:
        pass  # dM is the rounded gradient itself

    def transform_products(self, piece: Piece) -> None:
        self._output.take(piece, self.products(piece))

    def tiled(self, piece: Piece) -> Array:
        return self._output.tiled(piece)

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        np.copyto(self.products(piece), self._output.of(piece))
        return super().transform_gradient(piece, keep)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        total = transformed[0].copy()
        add_in_order(transformed[1:], total)
        store_gradient(total.transpose(3, 1, 0, 2), grad_weight)
