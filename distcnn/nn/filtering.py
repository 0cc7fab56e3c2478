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
rows V (P, H, C, J, T*N), weights U (P, O, kh, C, J), products M (P, oh, O, T*N). What goes through is a block of rows at a time, so that
it stays in the nearest caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn.layer import Array, buffer, image_buffer
from distcnn.nn.windows import Pair, windows_view

MOST_POINTS = 8
"""More points multiply less, but their matrices hold larger numbers, which round worse."""
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials are evaluated, besides infinity: small powers of two, so that A and B are exact."""
LEAST_DEPTH = 24
"""Channels times kernel rows below which a point's matrix product is too thin to gain anything."""
LEAST_FILTERS = 16


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes: C channels of the padded image, O filters, the kernel, the stride, the output's (oh, ow), N examples."""

    channels: int
    filters: int
    kernel: Pair
    stride: Pair
    size: Pair
    count: int


class Filtering(Protocol):
    """One make, planned for one geometry. Blocks of rows are slices of the ``oh`` rows of the output, or of the H rows of the input."""

    points: int
    depth: int
    tiles: int
    small_products: bool
    """Whether its matrix products are so small that BLAS spends much of its time on turning operands."""
    width: int
    """How wide the (padded) input must be."""
    images: Array
    """The output (O, oh, ow, N)."""

    def plan_blocks(self, most_inputs: int, most_outputs: int, dtype: DTypeLike) -> None:
        """Allocate for blocks of so many rows of the input and of the output."""

    def rows_of_input(self, x: Array, block: slice, rows: Array) -> None:
        """Write a block of V, ``rows``, for that of the images ``x`` (C, H, width, N)."""

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        """Write a block of ``grad_x`` (C, H, width, N) for that of dV."""

    def weights(self, weight: Array, transformed: Array) -> None:
        """Write U for ``weight`` (O, C, kh, kw)."""

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""

    grad_products: Array
    """dM, whole, as far as ``product_gradient`` has come."""

    def products(self, images: Array) -> Array:
        """Where to write the block of M that gives the rows ``images`` (O, rows, ow, N) of the output, a part of ``images``."""

    def output(self, images: Array, bias: Array) -> None:
        """Write these rows for their block of M and ``bias`` (O, 1)."""

    def begin_backward(self, grad_output: Array | None) -> Array:
        """Where the output's gradient is read from, block by block: ``grad_output`` (O, oh, ow, N), or by default the ``images``."""

    def product_gradient(self, block: slice, grads: Array, keep: bool) -> tuple[Array, Array]:
        """The block of dM for the rows ``grads`` of the output's gradient; ``keep`` it in ``grad_products``.

        And the gradient itself, as matrices (some, O, T*N) whose sum over some and columns is the bias's.
        """


class DirectFiltering:
    """Kernel width J times the input's bytes, every multiplication."""

    points, small_products = 1, False

    def __init__(self, geometry: Geometry, dtype: DTypeLike) -> None:
        (_, self.depth), (_, self._stride), (_, self.tiles) = geometry.kernel, geometry.stride, geometry.size
        self.width = (self.tiles - 1) * self._stride + self.depth
        self._shifts = Shifts(self.depth, self._stride, self.tiles)
        shape = (geometry.filters, *geometry.size, geometry.count)
        self.images, self._grad_output = image_buffer(shape, dtype), image_buffer(shape, dtype)

    def plan_blocks(self, most_inputs: int, most_outputs: int, dtype: DTypeLike) -> None:
        """Nothing lies between."""

    def rows_of_input(self, x: Array, block: slice, rows: Array) -> None:
        np.copyto(self._shifted(x, rows), self._shifts.of(x, block))

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        _fold(self._shifted(grad_x, rows).swapaxes(0, 1), self._stride, grad_x)

    def _shifted(self, x: Array, rows: Array) -> Array:
        return rows.reshape(-1, x.shape[0], self.depth, self.tiles, x.shape[3]).transpose(1, 2, 0, 3, 4)

    def weights(self, weight: Array, transformed: Array) -> None:
        np.copyto(transformed[0], weight.swapaxes(1, 2))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        np.copyto(grad_weight, transformed[0].transpose(3, 1, 0, 2))

    def products(self, images: Array) -> Array:
        return _as_products(images)

    def output(self, images: Array, bias: Array) -> None:
        self.products(images)[...] += bias

    def begin_backward(self, grad_output: Array | None) -> Array:
        whole = self._grad_output if grad_output is None else grad_output
        if not whole.swapaxes(0, 1).flags.c_contiguous:
            np.copyto(self._grad_output, whole)
            whole = self._grad_output
        self.grad_products = _as_products(whole)
        self._is_whole = grad_output is not None
        return whole if self._is_whole else self.images

    def product_gradient(self, block: slice, grads: Array, keep: bool) -> tuple[Array, Array]:
        products = _as_products(grads)
        if keep and not self._is_whole:
            np.copyto(self.grad_products[:, block], products)
        return products, products[0]


class MinimalFiltering:
    """F(outputs, kernel width): fewer multiplications, small transforms before and after."""

    depth, small_products = 1, True

    def __init__(self, outputs: int, geometry: Geometry, dtype: DTypeLike) -> None:
        self._geometry, self._outputs = geometry, outputs
        (output_height, output_width), kernel_width = geometry.size, geometry.kernel[1]
        self.points, self.tiles = outputs + kernel_width - 1, -(-output_width // outputs)
        self.width = self.tiles * outputs + kernel_width - 1
        self._shifts = Shifts(self.points, outputs, self.tiles)
        self._a, self._b, self._g = (np.ascontiguousarray(each, dtype) for each in minimal_matrices(outputs, kernel_width))
        self.images = image_buffer((geometry.filters, *geometry.size, geometry.count), dtype)
        self.grad_products = buffer((self.points, output_height, geometry.filters, self.tiles * geometry.count), dtype)

    def plan_blocks(self, most_inputs: int, most_outputs: int, dtype: DTypeLike) -> None:
        geometry = self._geometry
        self._pixels = buffer((self.points, most_inputs, geometry.channels, self.tiles, geometry.count), dtype)
        self._tiled = buffer((self._outputs, most_outputs, geometry.filters, self.tiles, geometry.count), dtype)

    def rows_of_input(self, x: Array, block: slice, rows: Array) -> None:
        pixels = self._pixels[:, : rows.shape[1]]
        np.copyto(pixels.transpose(2, 0, 1, 3, 4), self._shifts.of(x, block))
        np.matmul(self._b.T, _matrix(pixels), out=_matrix(rows))

    def input_gradient(self, rows: Array, grad_x: Array) -> None:
        pixels = self._pixels[:, : rows.shape[1]]
        np.matmul(self._b, _matrix(rows), out=_matrix(pixels))
        _fold(pixels.swapaxes(1, 2), self._outputs, grad_x)

    def weights(self, weight: Array, transformed: Array) -> None:
        np.matmul(self._g, _matrix(weight.transpose(3, 0, 2, 1)), out=_matrix(transformed))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        filters, channels, kernel_height, kernel_width = grad_weight.shape
        by_column = np.matmul(self._g.T, _matrix(transformed)).reshape(kernel_width, kernel_height, channels, filters)
        np.copyto(grad_weight, by_column.transpose(3, 2, 1, 0))

    def products(self, images: Array) -> Array:
        return self.grad_products[:, : images.shape[1]]  # the same place for all blocks, so that it stays in the caches

    def output(self, images: Array, bias: Array) -> None:
        products = self.products(images)
        products[POINTS.index(1.0)] += bias  # row 1 of A is all ones: what is added to its product is added to all outputs
        np.matmul(self._a.T, _matrix(products), out=_matrix(self._tiled[:, : products.shape[1]]))
        for tiled, pixels in self._tiles_of(images):
            np.copyto(pixels, tiled)

    def begin_backward(self, grad_output: Array | None) -> Array:
        return self.images if grad_output is None else grad_output

    def product_gradient(self, block: slice, grads: Array, keep: bool) -> tuple[Array, Array]:
        tiled, products = self._tiled[:, : block.stop - block.start], self.grad_products[:, block]
        if self._geometry.size[1] % self._outputs:
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        for in_tiles, pixels in self._tiles_of(grads):
            np.copyto(in_tiles, pixels)
        np.matmul(self._a, _matrix(tiled), out=_matrix(products))
        return products, tiled.reshape(-1, self._geometry.filters, products.shape[3])

    def _tiles_of(self, images: Array) -> Iterator[tuple[Array, Array]]:
        """Pairs of views, of the tiles and of ``images`` (O, rows, ow, N), that hold the same: the whole tiles, and what is in the last."""
        tiled = self._tiled[:, : images.shape[1]].transpose(2, 0, 1, 3, 4)
        whole, rest = divmod(images.shape[2], self._outputs)
        if whole:
            yield tiled[:, :, :, :whole], _tiled(images, self._outputs, whole)
        if rest:
            yield tiled[:, :rest, :, whole].swapaxes(1, 2), images[:, :, whole * self._outputs :]


def plan_filtering(geometry: Geometry, dtype: DTypeLike) -> Filtering:
    """The make with the fewest multiplications, where that pays. A pure function of shapes, so the same on all ranks."""
    kernel_height, kernel_width = geometry.kernel
    output_width = geometry.size[1]
    costs = {1: output_width * kernel_width}
    thick = geometry.channels * kernel_height >= LEAST_DEPTH and geometry.filters >= LEAST_FILTERS
    if thick and geometry.stride[1] == 1 and kernel_width > 1:
        costs |= {m: (m + kernel_width - 1) * -(-output_width // m) for m in range(2, MOST_POINTS - kernel_width + 2)}
    outputs = min(costs, key=lambda m: (costs[m], m))
    return DirectFiltering(geometry, dtype) if outputs == 1 else MinimalFiltering(outputs, geometry, dtype)


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


class Shifts:
    """``[c, j, h, t, n] = x[c, h, t*step + j, n]``, a view, made once for each array that comes: making one takes about 10 microseconds."""

    def __init__(self, shifts: int, step: int, tiles: int) -> None:
        self._shifts, self._step, self._tiles = shifts, step, tiles
        self._views: dict[tuple[int, int], tuple[Array, Array]] = {}

    def of(self, x: Array, rows: slice) -> Array:
        """The view of those rows."""
        known, view = self._views.get((rows.start, rows.stop), (None, x))
        if known is not x:
            view = windows_view(x[:, rows], (1, self._shifts), (1, self._step), (rows.stop - rows.start, self._tiles))[:, 0]
            self._views[rows.start, rows.stop] = x, view
        return view


def _tiled(x: Array, step: int, tiles: int) -> Array:
    """``[c, j, h, t, n] = x[c, h, t*step + j, n]`` for j < step: the width cut into tiles, a view."""
    channels, height, _, count = x.shape
    return x[:, :, : tiles * step].reshape(channels, height, tiles, step, count).transpose(0, 3, 1, 2, 4)


def _fold(shifted: Array, step: int, x: Array) -> None:
    """``x[c, h, t*step + j, n]`` = the sum of the ``shifted[j, c, h, t, n]`` that meet there."""
    shifts, tiles = len(shifted), shifted.shape[3]
    if shifts < step:
        x.fill(0)
    else:
        x[:, :, tiles * step :].fill(0)
        np.copyto(_tiled(x, step, tiles), shifted[:step].swapaxes(0, 1))
    for shift in range(0 if shifts < step else step, shifts):
        x[:, :, shift : shift + (tiles - 1) * step + 1 : step] += shifted[shift]


def _matrix(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _as_products(images: Array) -> Array:
    """``images`` (O, oh, ow, N) that lie row by row, as (1, oh, O, ow*N), without a copy."""
    filters, height, width, count = images.shape
    return images.swapaxes(0, 1).reshape(1, height, filters, width * count)
