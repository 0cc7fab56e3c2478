"""Minimal filtering: fewer multiplications, small transforms before and after (see
``distcnn.nn.kernels.algorithms``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Part
from distcnn.nn.kernels.tiles import Shifts, copy_tiles, fold
from distcnn.nn.layer import Array

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials are evaluated, besides infinity: small powers of two, so that A and B are
exact.
"""
ALL_ONES = POINTS.index(1.0)
"""This row of A is all ones: the gradient of its product is that of all outputs of a tile together.
"""


class MinimalFiltering:
    """F(outputs, kernel width): fewer multiplications, small transforms before and after."""

    depth, small_products, images = 1, True, None

    def __init__(self, outputs: int, geometry: Geometry, buffers: Buffers) -> None:
        self._geometry, self._buffers, self.outputs = geometry, buffers, outputs
        output_width, kernel_width = geometry.size[1], geometry.kernel[1]
        self.points, self.tiles = outputs + kernel_width - 1, -(-output_width // outputs)
        self.width = self.tiles * outputs + kernel_width - 1
        self.columns = self.tiles * geometry.count
        self._shifts = Shifts(self.points, 1, outputs, self.tiles)
        self._a, self._b, self._g = (
            np.ascontiguousarray(each, buffers.dtype)
            for each in minimal_matrices(outputs, kernel_width)
        )
        self._b_turned = np.ascontiguousarray(self._b.T)
        self._a_and_bias = np.concatenate([self._a.T, np.ones((outputs, 1), buffers.dtype)], axis=1)

    def strip(self, tiles: int, count: int) -> MinimalFiltering:
        size = self._geometry.size[0], tiles * self.outputs
        return MinimalFiltering(
            self.outputs, replace(self._geometry, size=size, count=count), self._buffers
        )

    def plan_blocks(self, most_inputs: int, most_outputs: int) -> None:
        geometry = self._geometry
        self._grad_pixels = self._buffers.zeros(
            (most_inputs, geometry.channels, self.tiles, self.points, geometry.count)
        )
        products = self._buffers.zeros(
            (self.points + 1, geometry.size[0], geometry.filters, self.columns)
        )
        self.grad_products, self._products_and_bias = products[:-1], products[:, :most_outputs]
        self._tiled = self._buffers.zeros(
            (self.outputs, most_outputs, geometry.filters, self.tiles, geometry.count)
        )

    def rows_of_input(self, x: Array, block: slice, part: Part, rows: Array) -> None:
        # A small product for each tile of each row and channel: its pixels are a matrix where they
        # lie.
        pixels = self._shifts.of(x, block, part)[:, :, :, 0].transpose(2, 0, 3, 1, 4)
        np.matmul(self._b_turned, pixels, out=self._by_tile(rows))

    def input_gradient(self, rows: Array, grad_x: Array, held: int) -> None:
        pixels = self._grad_pixels[: rows.shape[1]]
        np.matmul(self._b, self._by_tile(rows), out=pixels)
        fold(pixels.swapaxes(0, 1), self.outputs, grad_x, held)

    def _by_tile(self, rows: Array) -> Array:
        """``rows`` as [h, c, t, p, n]."""
        return rows.reshape(*rows.shape[:3], self.tiles, self._geometry.count).transpose(
            1, 2, 3, 0, 4
        )

    def weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        self._products_and_bias[-1] = bias
        np.matmul(self._g, _matrix(weight.transpose(3, 0, 2, 1)), out=_matrix(transformed))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        by_column = np.matmul(self._g.T, _matrix(transformed)).reshape(
            kernel_width, kernel_height, channels, filters
        )
        np.copyto(grad_weight, by_column.transpose(3, 2, 1, 0))

    def tiled(self, block: slice) -> Array:
        return self._tiled[:, : block.stop - block.start].swapaxes(1, 2)

    def products(self, block: slice) -> Array:
        return self.grad_products[
            :, : block.stop - block.start
        ]  # the same place for all blocks, so that it stays in the caches

    def output(self, block: slice) -> None:
        rows = slice(0, block.stop - block.start)
        np.matmul(
            self._a_and_bias,
            _matrix(self._products_and_bias[:, rows]),
            out=_matrix(self._tiled[:, rows]),
        )

    def to_images(self, block: slice, images: Array) -> None:
        copy_tiles(images, self.tiled(block), to_images=True)

    def begin_backward(self, grad_output: Array | None) -> None:
        if grad_output is not None:
            self._grad_output = grad_output

    def from_images(self, block: slice, part: Part) -> None:
        tiled, images = self.tiled(block), self._grad_output[:, block, part.columns, part.images]
        if images.shape[2] % self.outputs:
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(images, tiled, to_images=False)

    def product_gradient(self, block: slice, keep: bool) -> tuple[Array, Array]:
        tiled, products = self._tiled[:, : block.stop - block.start], self.grad_products[:, block]
        np.matmul(self._a, _matrix(tiled), out=_matrix(products))
        return products, products[ALL_ONES]


def minimal_matrices(
    outputs: int, taps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A (P, outputs), B (P, P) and G (P, taps) of the minimal filtering F(outputs, taps), P =
    outputs + taps - 1.

    The transpose of multiplying polynomials by their values at P - 1 points a and at infinity (Toom
    and Cook): the rows of B^T are the numerators of Lagrange's polynomials, product over the other
    points of (z - a'), whose denominators divide the rows of G.
    """
    count = outputs + taps - 1
    points = POINTS[: count - 1]
    a, b, g = np.zeros((count, outputs)), np.zeros((count, count)), np.zeros((count, taps))
    for index, point in enumerate(points):
        others = [other for other in points if other != point]
        a[index], g[index] = (
            point ** np.arange(outputs),
            point ** np.arange(taps) / np.prod([point - other for other in others]),
        )
        b[: count - 1, index] = np.polynomial.polynomial.polyfromroots(others)
    a[-1, -1], g[-1, -1], b[:, -1] = 1, 1, np.polynomial.polynomial.polyfromroots(points)
    return a, b, g


def _matrix(array: Array) -> Array:
    return array.reshape(len(array), -1)
