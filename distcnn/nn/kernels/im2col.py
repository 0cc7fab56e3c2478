"""im2col along the width (``algorithms.py``): rows are unfolded into J shifted copies."""

from functools import cached_property

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.tiles import Shifts, add_tiles, fold
from distcnn.nn.layer import Array


class Im2col:
    """What both ways of im2col share; where products are written differs. The steps' documentation
    is that of ``Algorithm`` (``steps.py``).
    """

    def __init__(self, blocking: Blocking) -> None:
        self._blocking, tiling = blocking, blocking.tiling
        self._step = blocking.geometry.stride[1]
        self._shifts = Shifts(tiling.shifts, tiling.tile_width, self._step, blocking.tiles)

    def products(self, piece: Piece) -> Array:
        raise NotImplementedError

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        self._bias = bias
        np.copyto(transformed, weight.swapaxes(1, 2))

    def transform_input(self, x: Array, piece: Piece) -> None:
        np.copyto(self._shifted(piece.fresh_rows), self._shifts.of(x, piece))

    def transform_products(self, piece: Piece) -> None:
        products = self.products(piece)
        products += self._bias

    def tiled(self, piece: Piece) -> Array:
        products = self.products(piece)
        shape = *products.shape[:3], self._blocking.tiles, self._blocking.images
        return products.reshape(shape).swapaxes(1, 2)

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        np.copyto(grad_weight, np.add.reduce(transformed, axis=0).transpose(3, 1, 0, 2))

    def _shifted(self, rows: Array) -> Array:
        """``rows`` of V as [c, j, h, k, t, n]."""
        strip = self._blocking.tiles, self._blocking.images
        shape = *rows.shape[:2], -1, self._blocking.tiling.shifts, *strip
        return rows.reshape(shape).transpose(2, 3, 1, 0, 4, 5)


class TiledIm2col(Im2col):
    """For a max pooling that follows, whose windows are the tiles: the products of one piece after
    another are in the same buffer.
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking)
        self._buffers = buffers
        self._products = self._zeros(blocking.most_outputs)

    def _zeros(self, rows: int) -> Array:
        """(P, rows, O, T*N)."""
        blocking = self._blocking
        shape = blocking.tiling.points, rows, blocking.geometry.filters, blocking.columns
        return self._buffers.zeros(shape)

    @cached_property
    def grad_products(self) -> Array:
        return self._zeros(self._blocking.geometry.output_size[0])  # only if it is kept

    def products(self, piece: Piece) -> Array:
        return self._products[:, : piece.height]

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self.products(piece)
        if keep:
            np.copyto(self.grad_products[:, piece.output_rows], products)
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        grad_x[:, :, shared:].fill(0)
        outputs, shifted = self._blocking.tiling.tile_width, self._shifted(grad_rows)
        for k in range(outputs):
            pixels = shifted[:, :, :, k].transpose(0, 2, 3, 1, 4)
            add_tiles(pixels, outputs * self._step, grad_x[:, :, k * self._step :])


class UntiledIm2col(Im2col):
    """Tiles of one output: the products are rows of the output ``images`` (O, oh, ow, N), and their
    gradients rows of its gradient.
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        super().__init__(blocking)
        geometry, self._buffers = blocking.geometry, buffers
        self.images = buffers.images((geometry.filters, *geometry.output_size, geometry.count))
        self._products = self.grad_products = _as_products(self.images)

    def products(self, piece: Piece) -> Array:
        return self._products[:, piece.output_rows]

    def take_gradient(self, grad_images: Array) -> None:
        """Use the gradient of ``images`` in place of what is written to ``tiled``."""
        if not grad_images.swapaxes(0, 1).flags.c_contiguous:  # not stored row by row
            copy = self._buffers.scratch("gradient", self.images)
            np.copyto(copy, grad_images)
            grad_images = copy
        self.grad_products = _as_products(grad_images)

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self.grad_products[:, piece.output_rows]
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        pixels = self._shifted(grad_rows)[:, :, :, 0].transpose(0, 2, 3, 1, 4)
        fold(pixels, self._step, grad_x, shared)


class ImagesInPlace:
    """The epilogue of ``UntiledIm2col``, which writes its products to the output and reads their
    gradients from the output's: there is nothing to do for a piece.
    """

    def __init__(self, algorithm: UntiledIm2col) -> None:
        self._algorithm, self.result = algorithm, algorithm.images

    def take(self, piece: Piece) -> None:
        pass

    def begin_backward(self, grad_output: Array) -> None:
        self._algorithm.take_gradient(grad_output)

    def give_gradient(self, piece: Piece) -> None:
        pass


def _as_products(images: Array) -> Array:
    """``images`` (O, oh, ow, N) that are stored row by row, as (1, oh, O, ow*N), a view."""
    filters, height, width, count = images.shape
    return images.swapaxes(0, 1).reshape(1, height, filters, width * count)
