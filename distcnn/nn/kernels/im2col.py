"""Direct filtering: rows are unfolded into shifted copies (see
``distcnn.nn.kernels.algorithms``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Part
from distcnn.nn.kernels.tiles import Shifts, copy_tiles, fold
from distcnn.nn.layer import Array, Shape


class DirectFiltering:
    """Kernel width J times the input's bytes, every multiplication.

    ``outputs``, which divides the output's width, are its points too.
    """

    small_products = False

    def __init__(self, geometry: Geometry, buffers: Buffers, outputs: int = 1) -> None:
        self._geometry, self._buffers, self.outputs, self.points = (
            geometry,
            buffers,
            outputs,
            outputs,
        )
        (_, self.depth), (_, self._stride), (_, width) = (
            geometry.kernel,
            geometry.stride,
            geometry.size,
        )
        self.width = (width - 1) * self._stride + self.depth
        self.tiles = width // outputs
        self.columns = self.tiles * geometry.count
        self._shifts = Shifts(self.depth, outputs, self._stride, self.tiles)

    def strip(self, tiles: int, count: int) -> DirectFiltering:
        size = self._geometry.size[0], tiles * self.outputs
        return DirectFiltering(
            replace(self._geometry, size=size, count=count), self._buffers, self.outputs
        )

    @property
    def images(self) -> Array | None:
        return self._whole if self.outputs == 1 else None

    @cached_property
    def _whole(self) -> Array:
        return self._buffers.images(
            (self._geometry.filters, *self._geometry.size, self._geometry.count)
        )

    @cached_property
    def _kept(self) -> Array:
        return self._buffers.zeros(
            (self.points, self._geometry.size[0], self._geometry.filters, self.columns)
        )

    def plan_blocks(self, most_inputs: int, most_outputs: int) -> None:
        rows = most_outputs if self.outputs > 1 else 0
        self._block = self._buffers.zeros((self.points, rows, self._geometry.filters, self.columns))

    def rows_of_input(self, x: Array, block: slice, part: Part, rows: Array) -> None:
        np.copyto(self._shifted(rows), self._shifts.of(x, block, part))

    def input_gradient(self, rows: Array, grad_x: Array, held: int) -> None:
        shifted = self._shifted(rows).transpose(3, 1, 0, 2, 4, 5)
        if self.outputs == 1:
            fold(shifted[0].transpose(1, 2, 3, 0, 4), self._stride, grad_x, held)
            return
        grad_x[:, :, held:].fill(0)
        for output, of_output in enumerate(shifted):
            for shift, grads in enumerate(of_output):
                first = output * self._stride + shift
                grad_x[:, :, first :: self.outputs * self._stride][:, :, : self.tiles] += grads

    def _shifted(self, rows: Array) -> Array:
        """``rows`` as [c, j, h, k, t, n]."""
        return rows.reshape(
            *rows.shape[:2], -1, self.depth, self.tiles, self._geometry.count
        ).transpose(2, 3, 1, 0, 4, 5)

    def weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        self._bias = bias
        np.copyto(transformed, weight.swapaxes(1, 2))

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        np.copyto(grad_weight, np.add.reduce(transformed, axis=0).transpose(3, 1, 0, 2))

    def tiled(self, block: slice) -> Array:
        products = self.products(block)
        return products.reshape(*products.shape[:3], self.tiles, self._geometry.count).swapaxes(
            1, 2
        )

    def products(self, block: slice) -> Array:
        # Tiles of one output are the images themselves.
        return (
            _as_products(self._whole)[:, block]
            if self.outputs == 1
            else self._block[:, : block.stop - block.start]
        )

    def output(self, block: slice) -> None:
        self.products(block)[...] += self._bias

    def to_images(self, block: slice, images: Array) -> None:
        if self.outputs > 1:
            copy_tiles(images, self.tiled(block), to_images=True)

    def begin_backward(self, grad_output: Array | None) -> None:
        if grad_output is None and self.outputs == 1:
            grad_output = self._whole
        if grad_output is not None:
            self._grad_output = grad_output
        if self.outputs > 1:
            return
        if self._grad_output.swapaxes(0, 1).flags.c_contiguous:
            self.grad_products = _as_products(self._grad_output)
        else:
            self.grad_products = self._kept
            np.copyto(_as_images(self._kept, self._grad_output.shape), self._grad_output)

    def from_images(self, block: slice, part: Part) -> None:
        if self.outputs > 1:
            copy_tiles(
                self._grad_output[:, block, part.columns, part.images],
                self.tiled(block),
                to_images=False,
            )

    def product_gradient(self, block: slice, keep: bool) -> tuple[Array, Array]:
        products = self.grad_products[:, block] if self.outputs == 1 else self.products(block)
        if keep and self.outputs > 1:
            self.grad_products = self._kept
            np.copyto(self.grad_products[:, block], products)
        return products, products


def _as_products(images: Array) -> Array:
    """``images`` (O, oh, ow, N) that lie row by row, as (1, oh, O, ow*N), without a copy."""
    filters, height, width, count = images.shape
    return images.swapaxes(0, 1).reshape(1, height, filters, width * count)


def _as_images(products: Array, shape: Shape) -> Array:
    filters, height, width, count = shape
    return products.reshape(height, filters, width, count).swapaxes(0, 1)
