"""Winograd convolution along the width (``algorithms.py``)."""

import math

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.tiles import Shifts, fold
from distcnn.nn.layer import Array

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where polynomials are evaluated, besides infinity: 0 and powers of two, so that A and B are
exact."""
ALL_ONES = POINTS.index(1.0)
"""This row of A is all ones: its product is the sum of the outputs' gradients in each tile."""


class Winograd:
    """F(m, r): tiles of m outputs, a kernel of width r. The steps' documentation is that of
    ``Algorithm`` (``steps.py``).
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        geometry, tiling, most_outputs = blocking.geometry, blocking.tiling, blocking.most_outputs
        points, outputs = tiling.points, tiling.tile_width
        self._tiles, self._images, self._outputs = blocking.tiles, blocking.images, outputs
        self._shifts = Shifts(points, 1, outputs, self._tiles)
        matrices = winograd_matrices(outputs, geometry.kernel[1])
        self._a, self._b, self._g = (
            np.ascontiguousarray(matrix, buffers.dtype) for matrix in matrices
        )
        self._b_transposed = np.ascontiguousarray(self._b.T)
        ones = np.ones((outputs, 1), buffers.dtype)
        self._a_and_bias = np.concatenate([self._a.T, ones], axis=1)

        tile = self._tiles, points, self._images
        self._grad_pixels = buffers.zeros((blocking.most_inputs, geometry.channels, *tile))
        # The bias is one more row of products, so that A^T and the ones next to it add it.
        oh, filters = geometry.output_size[0], geometry.filters
        products = buffers.zeros((points + 1, oh, filters, blocking.columns))
        self.grad_products, self._products_and_bias = products[:-1], products[:, :most_outputs]
        self._tiled = buffers.zeros((outputs, most_outputs, filters, self._tiles, self._images))

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        self._products_and_bias[-1] = bias
        np.matmul(self._g, matrix_of(weight.transpose(3, 0, 2, 1)), out=matrix_of(transformed))

    def transform_input(self, x: Array, piece: Piece) -> None:
        fresh = self._by_tile(piece.fresh_rows)
        np.matmul(self._b_transposed, pixels_by_tile(self._shifts.of(x, piece)), out=fresh)

    def products(self, piece: Piece) -> Array:
        # The same place for all pieces, so that it stays in the caches.
        return self.grad_products[:, : piece.height]

    def transform_products(self, piece: Piece) -> None:
        products = matrix_of(self._products_and_bias[:, : piece.height])
        np.matmul(self._a_and_bias, products, out=matrix_of(self._tiled[:, : piece.height]))

    def tiled(self, piece: Piece) -> Array:
        return self._tiled[:, : piece.height].swapaxes(1, 2)

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        tiled = self._tiled[:, : piece.height]
        products = self.grad_products[:, piece.output_rows]
        np.matmul(self._a, matrix_of(tiled), out=matrix_of(products))
        return products, products[ALL_ONES]

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        pixels = self._grad_pixels[: grad_rows.shape[1]]
        np.matmul(self._b, self._by_tile(grad_rows), out=pixels)
        fold(pixels.swapaxes(0, 1), self._outputs, grad_x, shared)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        shape = kernel_width, kernel_height, channels, filters
        by_column = np.matmul(self._g.T, matrix_of(transformed)).reshape(shape)
        np.copyto(grad_weight, by_column.transpose(3, 2, 1, 0))

    def _by_tile(self, rows: Array) -> Array:
        """``rows`` of V as [h, c, t, p, n]."""
        shape = *rows.shape[:3], self._tiles, self._images
        return rows.reshape(shape).transpose(1, 2, 3, 0, 4)


def winograd_matrices(outputs: int, taps: int) -> tuple[Array, Array, Array]:
    """A (P, outputs), B (P, P) and G (P, taps) of F(outputs, taps), P = outputs + taps - 1.

    The transpose of multiplying polynomials by their values at P - 1 points a and at infinity (Toom
    and Cook): the rows of B^T are the numerators of Lagrange's polynomials, product over the other
    points of (z - a'), whose denominators divide the rows of G.
    """
    count = outputs + taps - 1
    points = POINTS[: count - 1]
    a, b = powers_of_points(count, outputs), np.zeros((count, count))
    g = powers_of_points(count, taps) / denominators(count)[:, np.newaxis]
    for index, point in enumerate(points):
        others = [other for other in points if other != point]
        b[: count - 1, index] = np.polynomial.polynomial.polyfromroots(others)
    b[:, -1] = np.polynomial.polynomial.polyfromroots(points)
    return a, b, g


def powers_of_points(count: int, exponents: int) -> Array:
    """The powers 0 to ``exponents`` - 1 of ``count`` - 1 points, and of infinity: the highest."""
    powers = np.zeros((count, exponents))
    powers[:-1, 0] = powers[-1, -1] = 1
    for exponent in range(1, exponents):  # by products, because they are exact
        powers[:-1, exponent] = powers[:-1, exponent - 1] * POINTS[: count - 1]
    return powers


def denominators(count: int) -> Array:
    """Of Lagrange's polynomials for ``count`` - 1 points, and 1 for infinity; they are exact."""
    points = POINTS[: count - 1]
    products = [math.prod(point - other for other in points if other != point) for point in points]
    return np.array([*products, 1.0])


def pixels_by_tile(shifted: Array) -> Array:
    """The pixels of each tile as [h, c, t, p, n], a view of that of ``Shifts``: a small matrix, in
    place, for each tile of each row and channel.
    """
    return shifted[:, :, :, 0].transpose(2, 0, 3, 1, 4)


def matrix_of(array: Array) -> Array:
    return array.reshape(len(array), -1)
