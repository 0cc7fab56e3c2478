"""Winograd convolution (``winograd.py``) in portable arithmetic.

The transforms are products with small constant matrices, and exact as well. B^T d and A dy are
taken in the network's type, float32: d and dy are rounded to so few bits that V and dM, which are
larger, have 24 at most. Also rounded are U, after its transform; M and dV, before A^T and B; and
dU, before the transpose of G. (The denominators of G are divided by after the product, or before
its transpose.)

Only d, dy, w, U and dU are searched for their largest magnitude. The bounds of V, M, dM and dV
follow from what the matrices can do.
"""

from dataclasses import dataclass

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.exact_algorithms import Output
from distcnn.nn.kernels.exact_products import store_gradient
from distcnn.nn.kernels.tiles import fold
from distcnn.nn.kernels.winograd import (
    ALL_ONES,
    Winograd,
    denominators,
    matrix_of,
    pixels_by_tile,
    powers_of_points,
    winograd_matrices,
)
from distcnn.nn.layer import Array
from distcnn.portable.grids import (
    FLOAT32_PRECISION,
    FLOAT32_ROUNDED_BITS,
    MOST_BITS,
    MOST_TERMS,
    PRECISION,
    ROUNDED_BITS,
    anchor,
    bits_of_terms,
    bits_of_transform,
    bound_of,
    precision_of,
    require_exact,
    round_by,
    round_to_grid,
)

LEAST_BITS = 16
"""Of d, dy and U: sums that leave fewer are split."""
LEAST_UNIT = 2.0**-118
"""The smallest by which B^T and A can be divided without leaving float32."""


class Matrices:
    """The constant matrices of F(m, r), scaled: rows of B^T and A are multiplied by powers of two
    that make them integers, and the columns of A^T and B divided by those of V and of dM.
    """

    def __init__(self, outputs: int, taps: int) -> None:
        a, b, _ = winograd_matrices(outputs, taps)
        row_scales, grad_scales = (_scales_to_integers(matrix) for matrix in (b.T, a))
        self.b_transposed, self.a = row_scales * b.T, grad_scales * a
        self.a_transposed = np.ascontiguousarray((a / row_scales).T)
        self.b = np.ascontiguousarray((b.T / grad_scales).T)
        points = outputs + taps - 1
        self.numerators = powers_of_points(points, taps)
        self.denominators = denominators(points).reshape(-1, 1, 1, 1, 1)
        self.grad_weight_scales = (row_scales * grad_scales).reshape(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Bits:
    """The bits of all operands for the sums of a convolution, and its longest exact sums."""

    pixels: int  # d
    rows: int  # V
    grads: int  # dy
    grad_products: int  # dM
    weights: int  # U
    weight_exponent: int  # U is below 2**weight_exponent in its units
    grad_weights: int  # dU
    most_terms: int  # in M and dV
    most_columns: int  # in dU

    @classmethod
    def of(cls, matrices: Matrices, blocking: Blocking, precision: int) -> "Bits":
        """Choose them; d and dy are transformed in numbers of ``precision``."""
        row_growth, grad_growth = map(bits_of_transform, (matrices.b_transposed, matrices.a))
        in_sums = PRECISION - row_growth - grad_growth
        most_columns = min(2 ** (in_sums - 2 * LEAST_BITS), MOST_TERMS)
        of_both = in_sums - bits_of_terms(min(blocking.columns, most_columns))
        pixels = min(FLOAT32_PRECISION - row_growth, FLOAT32_ROUNDED_BITS, of_both - of_both // 2)
        grads = min(FLOAT32_PRECISION - grad_growth, FLOAT32_ROUNDED_BITS, of_both - pixels)
        rows, grad_products = pixels + row_growth, grads + grad_growth

        geometry = blocking.geometry
        most_terms = min(2 ** (PRECISION - FLOAT32_PRECISION - LEAST_BITS), MOST_TERMS)
        all_terms = [geometry.kernel[0] * count for count in (geometry.channels, geometry.filters)]
        terms, grad_terms = (min(count, most_terms) for count in all_terms)
        weights = min(
            MOST_BITS,
            PRECISION - rows - bits_of_terms(terms),
            PRECISION - grad_products - bits_of_terms(grad_terms),
        )
        transposed = matrices.a_transposed, matrices.b
        product_bits, grad_row_bits = (PRECISION - bits_of_transform(each) for each in transposed)
        in_product, in_grad_row = map(bits_of_terms, all_terms)
        exponent = min(
            product_bits - rows - in_product, grad_row_bits - grad_products - in_grad_row
        )
        require_exact(pixels, row_growth, 1, precision)
        require_exact(grads, grad_growth, 1, precision)
        require_exact(rows, grad_products, min(blocking.columns, most_columns))
        require_exact(rows, weights, terms)
        require_exact(grad_products, weights, grad_terms)
        require_exact(MOST_BITS, bits_of_transform(matrices.numerators), 1)
        return cls(
            pixels,
            rows,
            grads,
            grad_products,
            weights,
            exponent,
            min(PRECISION - bits_of_transform(matrices.numerators.T), ROUNDED_BITS),
            most_terms,
            most_columns,
        )


class ExactWinograd(Winograd):
    """``Winograd`` in portable arithmetic.

    V and dM are integers, in units that are powers of two: B^T and A are divided by the units of d
    and dy. U is in units of its own, chosen such that M and dV, once they are rounded to integers,
    have as many bits as A^T and B leave. A^T and B are multiplied by what converts back.

    ``round_weights`` comes first, then ``begin_forward`` and its pieces, then ``begin_backward``.
    """

    def __init__(self, blocking: Blocking, inner: Buffers, buffers: Buffers) -> None:
        super().__init__(blocking, inner)
        self._output, self._buffers = Output(blocking, buffers), buffers
        geometry, tiling = blocking.geometry, blocking.tiling
        shape = tiling.points, blocking.most_outputs, geometry.filters, blocking.columns
        self._new_grad_products = buffers.zeros(shape)
        self._matrices = Matrices(tiling.tile_width, geometry.kernel[1])
        self._precision = precision_of(buffers.dtype)
        self._bits = bits = Bits.of(self._matrices, blocking, self._precision)
        self.grad_bits, self.most_terms = bits.grads, bits.most_terms
        self.most_columns = bits.most_columns
        self._fresh: dict[Piece, tuple[Array, tuple[Array, Array, Array, Array]]] = {}

    def round_weights(self, weight: Array, transformed: Array) -> None:
        rounded, matrices = np.empty(weight.shape), self._matrices
        round_to_grid(weight, MOST_BITS, rounded)
        by_column = rounded.transpose(3, 0, 2, 1).reshape(weight.shape[3], -1)
        numerators = np.matmul(matrices.numerators, by_column).reshape(transformed.shape)
        np.divide(numerators, matrices.denominators, out=transformed)
        self.weight_bound = round_to_grid(transformed, self._bits.weights, transformed)
        self._weight_unit = self.weight_bound / 2.0**self._bits.weight_exponent
        transformed /= self._weight_unit

    def take_bias(self, bias: Array) -> None:
        self._output.take_bias(bias)

    def begin_forward(self, images: Array) -> float:
        bound, bits, matrices = bound_of(images), self._bits.pixels, self._matrices
        self._pixel_anchor = anchor(bound, bits, self._precision)
        self._pixel_unit = bound / 2.0**bits
        self._to_rows, self._rows_scale = self._divided(matrices.b_transposed, self._pixel_unit)
        self._from_products = matrices.a_transposed * (self._pixel_unit * self._weight_unit)
        return bound

    def begin_backward(self, grad_bound: float) -> None:
        self.grad_unit = grad_bound / 2.0**self._bits.grads
        self._to_grads, self._grads_scale = self._divided(self._matrices.a, self.grad_unit)
        self._from_grad_rows = self._matrices.b * (self.grad_unit * self._weight_unit)

    def _divided(self, matrix: Array, unit: float) -> tuple[Array, float]:
        """``matrix`` divided by ``unit``, in the network's type, and what is left to multiply by: 1
        unless the unit is tiny, NaN if it is.
        """
        divisor = float(np.maximum(unit, LEAST_UNIT))  # NaN if unit is
        return (matrix / divisor).astype(self._buffers.dtype), divisor / unit

    def transform_input(self, x: Array, piece: Piece) -> None:
        part, pixels, by_tile, rows = self._fresh_pixels(x, piece)
        round_by(self._pixel_anchor, part, pixels)
        np.matmul(self._to_rows, by_tile, out=self._by_tile(rows))
        np.copyto(piece.fresh_rows, rows)
        if self._rows_scale != 1:
            np.multiply(piece.fresh_rows, self._rows_scale, out=piece.fresh_rows)

    def _fresh_pixels(self, x: Array, piece: Piece) -> tuple[Array, Array, Array, Array]:
        """The piece's fresh rows of ``x``, where to round them, a view of that by tiles, and where
        to transform them; kept for as long as ``x`` is the same array.
        """
        known, arrays = self._fresh.get(piece, (None, None))
        if arrays is None or known is not x:
            part = x[:, piece.fresh, piece.input_columns, piece.images]
            pixels = self._buffers.scratch("fresh", part, self._buffers.dtype)
            rows = self._buffers.scratch("V", piece.fresh_rows, self._buffers.dtype)
            arrays = part, pixels, pixels_by_tile(self._shifts.view(pixels)), rows
            self._fresh[piece] = x, arrays
        return arrays

    def transform_products(self, piece: Piece) -> None:
        products, exact = self.products(piece), self._tiled[:, : piece.height]
        np.rint(products, out=products)
        np.matmul(self._from_products, matrix_of(products), out=matrix_of(exact))
        self._output.take(piece, exact.reshape(self._output.of(piece).shape))

    def tiled(self, piece: Piece) -> Array:
        return self._output.tiled(piece)

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        new = self._new_grad_products[:, : piece.height]
        products = self.grad_products[:, piece.output_rows]
        np.matmul(self._to_grads, matrix_of(self._output.of(piece)), out=matrix_of(new))
        np.copyto(products, new)
        if self._grads_scale == 1:  # to transpose half the bytes takes less time
            return new, products[ALL_ONES]
        np.multiply(products, self._grads_scale, out=products)
        return products, products[ALL_ONES]

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        np.rint(grad_rows, out=grad_rows)
        exact = self._grad_pixels[: grad_rows.shape[1]]
        np.matmul(self._from_grad_rows, self._by_tile(grad_rows), out=exact)
        fold(exact.swapaxes(0, 1), self._outputs, grad_x, shared)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        matrices = self._matrices
        units = self._pixel_unit * self.grad_unit / matrices.grad_weight_scales
        quotients = transformed * units / matrices.denominators
        round_to_grid(quotients, self._bits.grad_weights, quotients)
        by_column = np.matmul(matrices.numerators.T, quotients.reshape(len(quotients), -1))
        shape = kernel_width, kernel_height, channels, filters
        store_gradient(by_column.reshape(shape).transpose(3, 2, 1, 0), grad_weight)


def _scales_to_integers(matrix: Array) -> Array:
    """(P, 1): the powers of two that make the rows of ``matrix`` integers, and not all even."""
    scales = np.ones((len(matrix), 1))
    for row, scale in zip(matrix, scales, strict=True):
        while np.any(np.fmod(row * scale, 1)):
            scale *= 2
        while not np.any(np.fmod(row * scale / 2, 1)):
            scale /= 2
    return scales
