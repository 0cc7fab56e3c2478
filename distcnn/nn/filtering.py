"""Filtering along the width: what a convolution does to the rows of its images before and after its matrix products.

A convolution of kernel width r takes from each row d of an input ``y[s] = sum over j of w[j] * d[s*stride + j]``. Two makes:

* **Direct**: the row is unfolded into its r shifted copies, and the sum over j becomes part of the matrix product: r multiplications
  for each output.
* **Minimal** (stride 1; Winograd 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016): the row is cut into
  overlapping tiles of P = m + r - 1 pixels that give m outputs each, ``y = A^T ((G w) * (B^T d))``, elementwise in the brackets: P
  multiplications for m outputs instead of m*r, 8 instead of 20 for F(4, 5). Summed over channels and kernel rows, each of the P
  points is a matrix product of its own. A, B and G are small constant matrices, so each way is linear and its gradient goes back through
  their transposes: ``dM = A dy``, ``dU = dM (B^T d)^T``, ``dw = G^T dU``, ``dd = B (U^T dM)``.

Shapes, all with P points (1 if direct), J columns of the kernel within a product (1 if minimal), T tiles of m outputs (m = 1 if direct):
rows V (P, H, C, J, T*N), weights U (P, O, kh, C, J), products M (P, oh, O, T*N).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn.layer import Array, Shape, buffer, image_buffer
from distcnn.nn.windows import windows_view

MOST_POINTS = 8
"""More points multiply less, but their matrices hold larger numbers, which round worse."""
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials are evaluated, besides infinity: small powers of two, so that A and B are exact."""
LEAST_DEPTH = 24
"""Channels times kernel rows below which a point's matrix product is too thin to gain anything."""
LEAST_FILTERS = 16


class Filtering(Protocol):
    """One make, planned for C channels of H rows, O filters and N examples."""

    points: int
    depth: int
    tiles: int
    width: int
    """How wide the (padded) input must be."""

    def rows_of_input(self, x: Array, rows: Array) -> None:
        """Write V for the images ``x`` (C, H, width, N)."""

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        """Write ``grad_x`` (C, H, width, N) for dV, which may be overwritten."""

    def weights(self, weight: Array, transformed: Array) -> None:
        """Write U for ``weight`` (O, C, kh, kw)."""

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""

    def output(self, products: Array, bias: Array) -> Array:
        """The images (O, oh, ow, N) for M and ``bias`` (O, 1, 1); in a buffer that holds until the next call."""

    def product_gradient(self, grad_output: Array) -> tuple[Array, Array]:
        """dM for ``grad_output`` (O, oh, ow, N), and the gradient itself as matrices (some, O, T*N)."""


class DirectFiltering:
    """Kernel width J times the input's bytes, every multiplication."""

    points = 1

    def __init__(self, kernel_width: int, stride: int, output_shape: Shape, count: int, dtype: DTypeLike) -> None:
        self._filters, self._height, self.tiles = output_shape
        self.depth, self._stride = kernel_width, stride
        self.width = (self.tiles - 1) * stride + kernel_width
        self._products = buffer((self.points, self._height, self._filters, self.tiles * count), dtype)
        self._images = self._products.reshape(self._height, self._filters, self.tiles, count)

    def rows_of_input(self, x: Array, rows: Array) -> None:
        np.copyto(self._shifted(x, rows), _shifts(x, self.depth, self._stride, self.tiles))

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        _fold(self._shifted(grad_x, rows).transpose(1, 0, 2, 3, 4), self._stride, grad_x)

    def _shifted(self, x: Array, rows: Array) -> Array:
        channels, height, _, count = x.shape
        return rows.reshape(height, channels, self.depth, self.tiles, count).transpose(1, 2, 0, 3, 4)

    def weights(self, weight: Array, transformed: Array) -> None:
        np.copyto(transformed[0], weight.transpose(0, 2, 1, 3))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        np.copyto(grad_weight, transformed[0].transpose(3, 1, 0, 2))

    def output(self, products: Array, bias: Array) -> Array:
        images = products.reshape(self._images.shape).transpose(1, 0, 2, 3)
        images += bias[:, :, np.newaxis]
        return images

    def product_gradient(self, grad_output: Array) -> tuple[Array, Array]:
        rows = grad_output.transpose(1, 0, 2, 3)
        if not rows.flags.c_contiguous:
            np.copyto(self._images, rows)
            rows = self._images
        products = rows.reshape(self._products.shape)
        return products, products[0]


class MinimalFiltering:
    """F(outputs, kernel_width): fewer multiplications, small transforms before and after."""

    depth = 1

    def __init__(self, outputs: int, kernel_width: int, output_shape: Shape, input_shape: Shape, count: int, dtype: DTypeLike) -> None:
        filters, output_height, output_width = output_shape
        channels, height, _ = input_shape
        self.points, self.tiles, self._outputs = outputs + kernel_width - 1, -(-output_width // outputs), outputs
        self.width = self.tiles * outputs + kernel_width - 1
        self._a, self._b, self._g = (np.ascontiguousarray(each, dtype) for each in minimal_matrices(outputs, kernel_width))
        self._pixels = buffer((self.points, height, channels, self.tiles, count), dtype)
        self._tiled = buffer((outputs, output_height, filters, self.tiles, count), dtype)
        self._images = image_buffer((filters, output_height, output_width, count), dtype)
        self._products = buffer((self.points, output_height, filters, self.tiles * count), dtype)

    def rows_of_input(self, x: Array, rows: Array) -> None:
        np.copyto(self._pixels.transpose(2, 0, 1, 3, 4), _shifts(x, self.points, self._outputs, self.tiles))
        np.matmul(self._b.T, _matrix(self._pixels), out=_matrix(rows))

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        np.matmul(self._b, _matrix(rows), out=_matrix(self._pixels))
        _fold(self._pixels.transpose(0, 2, 1, 3, 4), self._outputs, grad_x)

    def weights(self, weight: Array, transformed: Array) -> None:
        np.matmul(self._g, _matrix(weight.transpose(3, 0, 2, 1)), out=_matrix(transformed))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        shape = (-1, *transformed.shape[1:3], transformed.shape[-1])
        np.copyto(grad_weight, np.matmul(self._g.T, _matrix(transformed)).reshape(shape).transpose(3, 2, 1, 0))

    def output(self, products: Array, bias: Array) -> Array:
        np.matmul(self._a.T, _matrix(products), out=_matrix(self._tiled))
        for tiled, images in self._outputs_of_tiles(self._images):
            np.add(tiled, bias, out=images)
        return self._images

    def product_gradient(self, grad_output: Array) -> tuple[Array, Array]:
        self._tiled[:, :, :, -1].fill(0)  # the last tile may reach beyond the images
        for tiled, grads in self._outputs_of_tiles(grad_output):
            np.copyto(tiled, grads)
        np.matmul(self._a, _matrix(self._tiled), out=_matrix(self._products))
        outputs, height, filters, tiles, count = self._tiled.shape
        return self._products, self._tiled.reshape(outputs * height, filters, tiles * count)

    def _outputs_of_tiles(self, images: Array) -> Iterator[tuple[Array, Array]]:
        """For each place in a tile, what all tiles hold there: of the tiles, and of ``images`` (O, oh, ow, N); both (oh, O, some, N)."""
        rows = images.transpose(1, 0, 2, 3)
        for place, tiled in enumerate(self._tiled):
            there = rows[:, :, place :: self._outputs]
            yield tiled[:, :, : there.shape[2]], there


def plan_filtering(
    filters: int, kernel: tuple[int, int], stride: int, input_shape: Shape, size: tuple[int, int], count: int, dtype: DTypeLike
) -> Filtering:
    """The make with the fewest multiplications, where that pays. A pure function of shapes, so the same on all ranks."""
    kernel_width, output_shape = kernel[1], (filters, *size)
    costs = {1: size[1] * kernel_width}
    if stride == 1 and kernel_width > 1 and input_shape[0] * kernel[0] >= LEAST_DEPTH and filters >= LEAST_FILTERS:
        costs |= {m: (m + kernel_width - 1) * -(-size[1] // m) for m in range(2, MOST_POINTS - kernel_width + 2)}
    outputs = min(costs, key=lambda m: (costs[m], m))
    if outputs == 1:
        return DirectFiltering(kernel_width, stride, output_shape, count, dtype)
    return MinimalFiltering(outputs, kernel_width, output_shape, input_shape, count, dtype)


def minimal_matrices(outputs: int, taps: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A (P, outputs), B (P, P) and G (P, taps) of the minimal filtering F(outputs, taps), P = outputs + taps - 1.

    The transpose of multiplying polynomials by their values at P - 1 points a and at infinity (Toom and Cook): the rows of B^T are the
    numerators of Lagrange's polynomials, product over the other points of (z - a'), whose denominators divide the rows of G.
    """
    count = outputs + taps - 1
    points = POINTS[: count - 1]
    a, b, g = np.zeros((count, outputs)), np.zeros((count, count)), np.zeros((count, taps))
    for index, point in enumerate(points):
        others = [other for other in points if other != point]
        a[index], g[index] = point ** np.arange(outputs), point ** np.arange(taps) / np.prod([point - other for other in others])
        b[: count - 1, index] = np.polynomial.polynomial.polyfromroots(others)
    a[-1, -1], g[-1, -1], b[:, -1] = 1, 1, np.polynomial.polynomial.polyfromroots(points)
    return a, b, g


def _shifts(x: Array, shifts: int, step: int, tiles: int) -> Array:
    """``[c, j, h, t, n] = x[c, h, t*step + j, n]``, a view."""
    return windows_view(x, (1, shifts), (1, step), (x.shape[1], tiles))[:, 0]


def _fold(shifted: Array, step: int, x: Array) -> None:
    """``x[c, h, t*step + j, n]`` = the sum of the ``shifted[j, c, h, t, n]`` that meet there."""
    shifts, tiles = len(shifted), shifted.shape[3]
    x[:, :, 0 if shifts < step else tiles * step :].fill(0)
    for shift, values in enumerate(shifted):
        there = x[:, :, shift : shift + (tiles - 1) * step + 1 : step]
        if shift < step:
            np.copyto(there, values)
        else:
            there += values


def _matrix(array: Array) -> Array:
    return array.reshape(len(array), -1)
