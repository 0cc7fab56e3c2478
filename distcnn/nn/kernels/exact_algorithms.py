"""The algorithms of a convolution (``algorithms.py``) in portable arithmetic.

Operands of matrix products are rounded to grids, so that the products are exact
(``distcnn.portable.grids``). With im2col these are the images d, the weights w and the gradients
dy themselves. With Winograd they are V, U and dM, which the transforms make of them. These are
products too, with small constant matrices, and exact as well: d and dy are rounded before them, to
as many bits as float32 has, M and dV before A^T and B. (The denominators of G are divided by after
the product, or before its transpose.)

The bounds of V, M, dM and dV, which are large, follow from those of images, weights and gradients.
Only these, U and dU are searched for their largest magnitude.
"""

import math
from typing import Protocol

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.exact_products import add_in_order, store_gradient
from distcnn.nn.kernels.im2col import TiledIm2col
from distcnn.nn.kernels.steps import Algorithm
from distcnn.nn.kernels.tiles import fold
from distcnn.nn.kernels.winograd import (
    Winograd,
    denominators,
    matrix_of,
    pixels_by_tile,
    powers_of_points,
)
from distcnn.nn.layer import Array
from distcnn.portable.grids import (
    MOST_BITS,
    MOST_TERMS,
    PRECISION,
    bits_of_terms,
    bits_of_transform,
    bound_of,
    largest_row_sum,
    operand_bits,
    power_above,
    require_exact,
    round_to_grid,
)


class ExactAlgorithm(Algorithm, Protocol):
    """An algorithm that is told the bounds of its operands."""

    grad_bits: int
    """To which the gradients of the output are rounded."""
    weight_bound: float
    """Of the latest rounded weights."""

    def round_weights(self, weight: Array, transformed: Array) -> None:
        """Write U, rounded, to ``transformed``, for ``weight`` (O, C, kh, kw)."""

    def begin_forward(self, images: Array) -> float:
        """Take the (padded) images of the pass that follows; return their bound."""

    def begin_backward(self, grad_bound: float) -> None:
        """Take the bound of the output's gradient for the pass that follows."""


class Bits:
    """The bits of V, U and dM for the sums of terms in M, dU and dV."""

    def __init__(self, blocking: Blocking) -> None:
        geometry, kernel_height = blocking.geometry, blocking.geometry.kernel[0]
        self.product_terms = kernel_height * geometry.channels * blocking.tiling.shifts  # kh*C*J
        self.input_gradient_terms = kernel_height * geometry.filters
        self.rows = operand_bits(self.product_terms, blocking.columns)
        self.weights = operand_bits(self.product_terms, self.input_gradient_terms)
        self.gradients = operand_bits(blocking.columns, self.input_gradient_terms)
        for bits, other, terms in (
            (self.rows, self.weights, self.product_terms),
            (self.rows, self.gradients, blocking.columns),
            (self.weights, self.gradients, self.input_gradient_terms),
        ):
            require_exact(bits, other, min(terms, MOST_TERMS))


class ExactIm2col(TiledIm2col):
    """Im2col in portable arithmetic, with a buffer for the products of a piece in any case."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking, buffers)
        self._bits, self._inner = Bits(blocking), buffers
        self.grad_bits = self._bits.gradients

    def round_weights(self, weight: Array, transformed: Array) -> None:
        first, *others = transformed  # the same for all points
        self.weight_bound = round_to_grid(weight.swapaxes(1, 2), self._bits.weights, first)
        for copy in others:
            np.copyto(copy, first)

    def begin_forward(self, images: Array) -> float:
        self._rounded = self._inner.scratch("rounded images", images, self._inner.dtype)
        return round_to_grid(images, self._bits.rows, self._rounded)

    def transform_input(self, x: Array, piece: Piece) -> None:
        super().transform_input(self._rounded, piece)

    def begin_backward(self, grad_bound: float) -> None:
        pass  # dM is their rounded gradient

    def transform_products(self, piece: Piece) -> None:
        pass  # the epilogue adds the bias

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        total = transformed[0].copy()
        add_in_order(transformed[1:], total)
        store_gradient(total.transpose(3, 1, 0, 2), grad_weight)


class ExactWinograd(Winograd):
    """``Winograd`` in portable arithmetic. V, M, dM and dV are kept in units, powers of two, such
    that rounding to their grids is rounding to integers (``rint``). B^T and A are multiplied by
    powers of two that convert to these units, A^T and B by those that convert back; U has a unit of
    its own, which ``round_weights`` chooses, so it comes first.
    """

    grad_bits = MOST_BITS

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking, buffers)
        self._bits, self._buffers = Bits(blocking), buffers
        bits, points = self._bits, blocking.tiling.points
        self._a_transposed = np.ascontiguousarray(self._a.T)
        self._numerators = powers_of_points(points, blocking.geometry.kernel[1])
        self._denominators = denominators(points).reshape(-1, 1, 1, 1, 1)
        for matrix in (self._b_transposed, self._a, self._numerators):
            require_exact(MOST_BITS, bits_of_transform(matrix), 1)
        self._row_growth, self._grad_growth = (
            power_above(largest_row_sum(matrix)) for matrix in (self._b_transposed, self._a)
        )
        self._weight_gradient_bits = PRECISION - bits_of_transform(self._numerators.T)
        # U is below 2**weight_exponent in its units, so that M and dV are integers of as many bits
        # as A^T and B leave.
        product_bits = PRECISION - bits_of_transform(self._a_transposed)
        grad_row_bits = PRECISION - bits_of_transform(self._b)
        self._weight_exponent = min(
            product_bits - bits.rows - bits_of_terms(bits.product_terms),
            grad_row_bits - bits.gradients - bits_of_terms(bits.input_gradient_terms),
        )
        self.weight_bound = math.nan
        self._fresh: dict[Piece, tuple[Array, Array, Array, Array]] = {}

    def round_weights(self, weight: Array, transformed: Array) -> None:
        rounded = np.empty(weight.shape)
        round_to_grid(weight, MOST_BITS, rounded)
        by_column = rounded.transpose(3, 0, 2, 1).reshape(weight.shape[3], -1)
        numerators = (self._numerators @ by_column).reshape(transformed.shape)
        np.divide(numerators, self._denominators, out=transformed)
        self.weight_bound = round_to_grid(transformed, self._bits.weights, transformed)
        self._weight_unit = self.weight_bound / 2.0**self._weight_exponent
        transformed /= self._weight_unit

    def begin_forward(self, images: Array) -> float:
        bound = bound_of(images)
        self._pixel_unit = bound / 2.0**MOST_BITS
        self._row_unit = bound * self._row_growth / 2.0**self._bits.rows
        self._to_rows = self._b_transposed * (self._pixel_unit / self._row_unit)
        self._from_products = self._a_transposed * (self._row_unit * self._weight_unit)
        return bound

    def begin_backward(self, grad_bound: float) -> None:
        self._grad_unit = grad_bound * self._grad_growth / 2.0**self._bits.gradients
        self._to_grad_products = self._a / self._grad_unit
        self._from_grad_rows = self._b * (self._grad_unit * self._weight_unit)

    def transform_input(self, x: Array, piece: Piece) -> None:
        part, pixels, by_tile = self._fresh_pixels(x, piece)
        np.copyto(pixels, part)
        pixels *= 1 / self._pixel_unit
        np.rint(pixels, out=pixels)
        rows = piece.fresh_rows
        np.matmul(self._to_rows, by_tile, out=self._by_tile(rows))
        np.rint(rows, out=rows)

    def _fresh_pixels(self, x: Array, piece: Piece) -> tuple[Array, Array, Array]:
        """The piece's fresh rows of ``x``, where to write them as integers, and a view of that by
        tiles; kept for as long as ``x`` is the same array.
        """
        known = self._fresh.get(piece)
        if known is None or known[0] is not x:
            part = x[:, piece.fresh, piece.input_columns, piece.images]
            pixels = self._buffers.scratch("fresh", part, self._buffers.dtype)
            known = x, part, pixels, pixels_by_tile(self._shifts.view(pixels))
            self._fresh[piece] = known
        return known[1:]

    def transform_products(self, piece: Piece) -> None:
        products = self.products(piece)
        np.rint(products, out=products)
        tiled = self._tiled[:, : piece.height]
        np.matmul(self._from_products, matrix_of(products), out=matrix_of(tiled))

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        tiled = self._tiled[:, : piece.height]
        products = self.grad_products[:, piece.output_rows]
        np.matmul(self._to_grad_products, matrix_of(tiled), out=matrix_of(products))
        np.rint(products, out=products)
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        np.rint(grad_rows, out=grad_rows)
        exact = self._grad_pixels[: grad_rows.shape[1]]
        np.matmul(self._from_grad_rows, self._by_tile(grad_rows), out=exact)
        fold(exact.swapaxes(0, 1), self._outputs, grad_x, shared)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        quotients = transformed * (self._row_unit * self._grad_unit) / self._denominators
        round_to_grid(quotients, self._weight_gradient_bits, quotients)
        by_column = self._numerators.T @ quotients.reshape(len(quotients), -1)
        shape = kernel_width, kernel_height, channels, filters
        store_gradient(by_column.reshape(shape).transpose(3, 2, 1, 0), grad_weight)
