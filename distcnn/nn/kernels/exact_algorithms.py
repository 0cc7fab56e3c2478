"""The algorithms of a convolution (``algorithms.py``) in portable arithmetic.

Operands of matrix products are rounded to grids, so that the products are exact
(``distcnn.portable.grids``). With im2col these are the images d, the weights w and the gradients
dy themselves. With Winograd they are V, U and dM, which the transforms make of them. These are
products too, with small constant matrices, and exact as well. Those of d and dy are taken in
float32: d and dy are rounded to so few bits that V and dM have 24 at most. U is rounded after its
transform, M and dV before A^T and B. (The denominators of G are divided by after the product, or
before its transpose.)

Only d, dy, U and dU are searched for their largest magnitude: the bounds of V, M, dM and dV, which
are large, follow.
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
    ALL_ONES,
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
    anchor,
    bits_of_terms,
    bits_of_transform,
    bound_of,
    operand_bits,
    precision_of,
    require_exact,
    round_by,
    round_to_grid,
)

FLOAT32_PRECISION = 24
LEAST_BITS = 16
"""Of any operand, and of what it is transformed from."""


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
    """Longer sums of products, and of products for dU, are not exact."""

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
        matrix = matrix_of(output)
        matrix += self._bias[: piece.height].ravel()

    def tiled(self, piece: Piece) -> Array:
        """[k, o, r, t, n]"""
        output = self.of(piece)
        return output.reshape(*output.shape[:3], *self._by_tile).swapaxes(1, 2)


class ExactIm2col(TiledIm2col):
    """Im2col in portable arithmetic, with a buffer for the products of a piece in any case."""

    grad_unit = 1.0
    most_terms = most_columns = MOST_TERMS

    def __init__(self, blocking: Blocking, inner: Buffers, buffers: Buffers) -> None:
        super().__init__(blocking, inner)
        self._output = Output(blocking, buffers)
        self.tiled = self._output.tiled
        self.take_bias = self._output.take_bias
        geometry, self._inner = blocking.geometry, inner
        terms = geometry.kernel[0] * geometry.channels * blocking.tiling.shifts  # kh*C*J
        grad_terms, columns = geometry.kernel[0] * geometry.filters, blocking.columns
        self._row_bits = operand_bits(terms, columns)
        self._weight_bits = operand_bits(terms, grad_terms)
        self.grad_bits = min(FLOAT32_PRECISION - 2, operand_bits(columns, grad_terms))
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

    def begin_forward(self, images: Array) -> float:
        self._rounded = self._inner.scratch("rounded images", images, self._inner.dtype)
        return round_to_grid(images, self._row_bits, self._rounded)

    def transform_input(self, x: Array, piece: Piece) -> None:
        super().transform_input(self._rounded, piece)

    def begin_backward(self, grad_bound: float) -> None:
        pass  # dM are their rounded gradient

    def transform_products(self, piece: Piece) -> None:
        self._output.take(piece, self.products(piece))

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        np.copyto(self.products(piece), self._output.of(piece))
        return super().transform_gradient(piece, keep)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        total = transformed[0].copy()
        add_in_order(transformed[1:], total)
        store_gradient(total.transpose(3, 1, 0, 2), grad_weight)


class ExactWinograd(Winograd):
    """``Winograd`` in portable arithmetic.

    V, M, dM and dV are integers, in units that are powers of two. The rows of B^T and A are
    multiplied by powers of two that make them integers, and divided by the units of d and dy. A^T
    and B are multiplied by what converts back. U is in units of its own, which ``round_weights``
    chooses such that M and dV, rounded to integers, have as many bits as A^T and B leave.
    """

    def __init__(self, blocking: Blocking, inner: Buffers, buffers: Buffers) -> None:
        super().__init__(blocking, inner)
        self._output = Output(blocking, buffers)
        self.tiled = self._output.tiled
        self.take_bias = self._output.take_bias
        self._buffers, geometry = buffers, blocking.geometry
        points, kernel_width = blocking.tiling.points, geometry.kernel[1]
        rows_by_points = points, blocking.most_outputs, geometry.filters, blocking.columns
        self._narrow_grad_products = buffers.zeros(rows_by_points)
        self._all_ones = inner.zeros(rows_by_points[1:])

        self._numerators = powers_of_points(points, kernel_width)
        self._denominators = denominators(points).reshape(-1, 1, 1, 1, 1)
        require_exact(MOST_BITS, bits_of_transform(self._numerators), 1)
        self._weight_gradient_bits = PRECISION - bits_of_transform(self._numerators.T)
        row_scales, grad_scales = (
            _scales_to_integers(matrix) for matrix in (self._b_transposed, self._a)
        )
        self._integer_b_transposed = row_scales * self._b_transposed
        self._integer_a = grad_scales * self._a
        self._scaled_a_transposed = np.ascontiguousarray((self._a / row_scales).T)
        self._scaled_b = np.ascontiguousarray((self._b_transposed / grad_scales).T)
        self._grad_weight_scales = (row_scales * grad_scales).reshape(-1, 1, 1, 1, 1)
        self._choose_bits(blocking)
        self.weight_bound = math.nan
        self._fresh: dict[Piece, tuple[Array, Array, Array, Array]] = {}

    def _choose_bits(self, blocking: Blocking) -> None:
        """d and dy get what V and dM leave them in float32, or less for the sums in dU."""
        row_growth = bits_of_transform(self._integer_b_transposed)
        grad_growth = bits_of_transform(self._integer_a)
        of_sums = PRECISION - row_growth - grad_growth  # d, dy and the sums over columns
        self.most_columns = min(2 ** (of_sums - 2 * LEAST_BITS), MOST_TERMS)
        of_both = of_sums - bits_of_terms(min(blocking.columns, self.most_columns))
        self._pixel_bits = min(FLOAT32_PRECISION - row_growth, of_both - of_both // 2)
        self.grad_bits = min(FLOAT32_PRECISION - grad_growth, of_both - self._pixel_bits)
        row_bits = self._pixel_bits + row_growth
        grad_bits = self.grad_bits + grad_growth

        geometry = blocking.geometry
        self.most_terms = 2 ** (PRECISION - FLOAT32_PRECISION - LEAST_BITS)
        terms, grad_terms = (
            min(geometry.kernel[0] * count, self.most_terms)
            for count in (geometry.channels, geometry.filters)
        )
        in_product = row_bits + bits_of_terms(terms)
        in_grad_product = grad_bits + bits_of_terms(grad_terms)
        self._weight_bits = min(MOST_BITS, PRECISION - max(in_product, in_grad_product))
        product_bits = PRECISION - bits_of_transform(self._scaled_a_transposed)
        grad_row_bits = PRECISION - bits_of_transform(self._scaled_b)
        # U is below 2**weight_exponent in its units.
        self._weight_exponent = min(product_bits - in_product, grad_row_bits - in_grad_product)
        for bits, growth in ((self._pixel_bits, row_growth), (self.grad_bits, grad_growth)):
            require_exact(bits, growth, 1, FLOAT32_PRECISION)
        require_exact(row_bits, self._weight_bits, terms)
        require_exact(grad_bits, self._weight_bits, grad_terms)
        require_exact(row_bits, grad_bits, min(blocking.columns, self.most_columns))

    def round_weights(self, weight: Array, transformed: Array) -> None:
        rounded = np.empty(weight.shape)
        round_to_grid(weight, MOST_BITS, rounded)
        by_column = rounded.transpose(3, 0, 2, 1).reshape(weight.shape[3], -1)
        numerators = (self._numerators @ by_column).reshape(transformed.shape)
        np.divide(numerators, self._denominators, out=transformed)
        self.weight_bound = round_to_grid(transformed, self._weight_bits, transformed)
        self._weight_unit = self.weight_bound / 2.0**self._weight_exponent
        transformed /= self._weight_unit

    def begin_forward(self, images: Array) -> float:
        bound = bound_of(images)
        self._pixel_unit = bound / 2.0**self._pixel_bits
        self._pixel_anchor = anchor(bound, self._pixel_bits, precision_of(images))
        self._to_rows = (self._integer_b_transposed / self._pixel_unit).astype(images.dtype)
        self._from_products = self._scaled_a_transposed * (self._pixel_unit * self._weight_unit)
        return bound

    def begin_backward(self, grad_bound: float) -> None:
        self.grad_unit = grad_bound / 2.0**self.grad_bits
        dtype = self._narrow_grad_products.dtype
        self._to_grad_products = (self._integer_a / self.grad_unit).astype(dtype)
        self._from_grad_rows = self._scaled_b * (self.grad_unit * self._weight_unit)

    def transform_input(self, x: Array, piece: Piece) -> None:
        part, pixels, by_tile, narrow = self._fresh_pixels(x, piece)
        round_by(self._pixel_anchor, part, pixels)
        np.matmul(self._to_rows, by_tile, out=self._by_tile(narrow))
        np.copyto(piece.fresh_rows, narrow)

    def _fresh_pixels(self, x: Array, piece: Piece) -> tuple[Array, Array, Array, Array]:
        """The piece's fresh rows of ``x``, where to round them, a view of that by tiles, and where
        to transform them; kept for as long as ``x`` is the same array.
        """
        known = self._fresh.get(piece)
        if known is None or known[0] is not x:
            part = x[:, piece.fresh, piece.input_columns, piece.images]
            pixels = self._buffers.scratch("fresh", part)
            narrow = self._buffers.scratch("V", piece.fresh_rows, part.dtype)
            known = x, part, pixels, pixels_by_tile(self._shifts.view(pixels)), narrow
            self._fresh[piece] = known
        return known[1:]

    def transform_products(self, piece: Piece) -> None:
        products, exact = self.products(piece), self._tiled[:, : piece.height]
        np.rint(products, out=products)
        np.matmul(self._from_products, matrix_of(products), out=matrix_of(exact))
        self._output.take(piece, exact.reshape(self._output.of(piece).shape))

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self._narrow_grad_products[:, : piece.height]
        grads = matrix_of(self._output.of(piece))
        np.matmul(self._to_grad_products, grads, out=matrix_of(products))
        if keep:
            np.copyto(self.grad_products[:, piece.output_rows], products)
        all_ones = self._all_ones[: piece.height]
        np.copyto(all_ones, products[ALL_ONES])
        return products, all_ones

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        np.rint(grad_rows, out=grad_rows)
        exact = self._grad_pixels[: grad_rows.shape[1]]
        np.matmul(self._from_grad_rows, self._by_tile(grad_rows), out=exact)
        fold(exact.swapaxes(0, 1), self._outputs, grad_x, shared)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        unit = self._pixel_unit * self.grad_unit / self._grad_weight_scales
        quotients = transformed * unit / self._denominators
        round_to_grid(quotients, self._weight_gradient_bits, quotients)
        by_column = self._numerators.T @ quotients.reshape(len(quotients), -1)
        shape = kernel_width, kernel_height, channels, filters
        store_gradient(by_column.reshape(shape).transpose(3, 2, 1, 0), grad_weight)


def _scales_to_integers(matrix: Array) -> Array:
    """(P, 1): the powers of two that make rows of ``matrix`` integers, and not all even."""
    scales = np.ones((len(matrix), 1))
    for row, scale in zip(matrix, scales, strict=True):
        while np.any(np.fmod(row * scale, 1)):
            scale *= 2
        while not np.any(np.fmod(row * scale / 2, 1)):
            scale /= 2
    return scales
