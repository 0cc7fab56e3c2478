"""im2col along the width: rows are unfolded into shifted copies (see
``distcnn.nn.kernels.algorithms``, which also has the order of the calls).

It takes J times the memory of the input, and every multiplication. ``Im2col`` writes its output
straight into whole images; ``TiledIm2col`` is for a max pooling that follows, whose windows are its
tiles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.tiles import Shifts, fold
from distcnn.nn.layer import Array


class Unfolded(ABC):
    """What both have in common."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        self._tiling, self._buffers = blocking.tiling, buffers
        self._tiles, self._images = blocking.tiles, blocking.images
        tiling = blocking.tiling
        self._shifts = Shifts(tiling.depth, tiling.tile_width, tiling.stride, blocking.tiles)

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        self._bias = bias
        np.copyto(transformed, weight.swapaxes(1, 2))

    @abstractmethod
    def products(self, piece: Piece) -> Array:
        """Where the piece's product is to be written."""

    def transform_input(self, x: Array, piece: Piece) -> None:
        np.copyto(self._shifted(piece.fresh_rows), self._shifts.of(x, piece))

    def transform_products(self, piece: Piece) -> None:
        products = self.products(piece)
        products += self._bias

    def tiled(self, piece: Piece) -> Array:
        products = self.products(piece)
        shape = *products.shape[:3], self._tiles, self._images
        return products.reshape(shape).swapaxes(1, 2)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        np.copyto(grad_weight, np.add.reduce(transformed, axis=0).transpose(3, 1, 0, 2))

    def _shifted(self, rows: Array) -> Array:
        """``rows`` of V as [c, j, h, k, t, n]."""
        shape = *rows.shape[:2], -1, self._tiling.depth, self._tiles, self._images
        return rows.reshape(shape).transpose(2, 3, 1, 0, 4, 5)


class Im2col(Unfolded):
    """Products are rows of the output ``images`` (O, oh, ow, N)."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking, buffers)
        geometry = blocking.geometry
        self.images = buffers.images((geometry.filters, *geometry.output_size, geometry.count))
        self._products = self._grad_products = _as_products(self.images)

    def products(self, piece: Piece) -> Array:
        return self._products[:, piece.output_rows]

    def read_gradient(self, grad_output: Array) -> None:
        """Take the gradient from ``grad_output`` (O, oh, ow, N) instead of ``tiled``: copied if
        it is not stored row by row.
        """
        if grad_output.swapaxes(0, 1).flags.c_contiguous:
            self._grad_products = _as_products(grad_output)
        else:
            np.copyto(self._copy, grad_output)
            self._grad_products = _as_products(self._copy)

    @property
    def grad_products(self) -> Array:
        return self._grad_products

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self._grad_products[:, piece.output_rows]
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, held: int) -> None:
        pixels = self._shifted(grad_rows)[:, :, :, 0].transpose(0, 2, 3, 1, 4)
        fold(pixels, self._tiling.stride, grad_x, held)

    @cached_property
    def _copy(self) -> Array:
        return self._buffers.images(self.images.shape)


class TiledIm2col(Unfolded):
    """Products of one piece after another, in the same buffer."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking, buffers)
        points, filters = blocking.tiling.points, blocking.geometry.filters
        self._products = buffers.zeros((points, blocking.most_outputs, filters, blocking.columns))
        self._grad_shape = points, blocking.geometry.output_size[0], filters, blocking.columns

    def products(self, piece: Piece) -> Array:
        return self._products[:, : piece.height]

    @cached_property
    def grad_products(self) -> Array:
        return self._buffers.zeros(self._grad_shape)

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self.products(piece)
        if keep:
            np.copyto(self.grad_products[:, piece.output_rows], products)
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, held: int) -> None:
        grad_x[:, :, held:].fill(0)
        tiling, shifted = self._tiling, self._shifted(grad_rows).transpose(3, 1, 0, 2, 4, 5)
        for output, of_output in enumerate(shifted):
            for shift, grads in enumerate(of_output):
                first = output * tiling.stride + shift
                step = tiling.tile_width * tiling.stride
                grad_x[:, :, first::step][:, :, : self._tiles] += grads


def _as_products(images: Array) -> Array:
    """``images`` (O, oh, ow, N) that are stored row by row, as (1, oh, O, ow*N), a view."""
    filters, height, width, count = images.shape
    return images.swapaxes(0, 1).reshape(1, height, filters, width * count)
