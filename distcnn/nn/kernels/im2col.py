"""im2col along the width (``algorithms.py``): rows are unfolded into J shifted copies."""

from functools import cached_property

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.tiles import Shifts, add_tiles, fold
from distcnn.nn.layer import Array


class TiledIm2col:
    """For a max pooling that follows, whose windows are the tiles: products of one piece after
    another, in the same buffer.
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        self._blocking, self._buffers, tiling = blocking, buffers, blocking.tiling
        self._step = blocking.geometry.stride[1]
        self._shifts = Shifts(tiling.depth, tiling.tile_width, self._step, blocking.tiles)
        self._products = self._make_products(blocking.most_outputs)

    def _make_products(self, rows: int) -> Array:
        blocking = self._blocking
        shape = blocking.tiling.points, rows, blocking.geometry.filters, blocking.columns
        return self._buffers.zeros(shape)

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        """Write U for ``weight`` (O, C, kh, kw), and keep ``bias`` (O, 1)."""
        self._bias = bias
        np.copyto(transformed, weight.swapaxes(1, 2))

    def transform_input(self, x: Array, piece: Piece) -> None:
        """Write ``piece.fresh_rows``, of V, for the (padded) images ``x``."""
        np.copyto(self._shifted(piece.fresh_rows), self._shifts.of(x, piece))

    def products(self, piece: Piece) -> Array:
        """Where the piece's product, rows of M, is to be written."""
        return self._products[:, : piece.height]

    def transform_products(self, piece: Piece) -> None:
        """Write the output for the piece's product, and add the bias."""
        products = self.products(piece)
        products += self._bias

    def tiled(self, piece: Piece) -> Array:
        """The piece's output, or its gradient, as [k, o, r, t, n]."""
        products = self.products(piece)
        shape = *products.shape[:3], self._blocking.tiles, self._blocking.images
        return products.reshape(shape).swapaxes(1, 2)

    @cached_property
    def grad_products(self) -> Array:
        """dM (P, oh, O, T*N), as far as it has been kept."""
        return TiledIm2col._make_products(self, self._blocking.geometry.output_size[0])

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        """The piece's rows of dM for the gradient in ``tiled``; with ``keep`` in ``grad_products``
        too. And matrices (..., O, T*N) whose sum over all other axes is the bias's gradient.
        """
        products = self.products(piece)
        if keep:
            np.copyto(self.grad_products[:, piece.output_rows], products)
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, held: int) -> None:
        """Write rows of the input's gradient, ``grad_x`` (C, H, width, N), for those of dV; add to
        its first ``held`` columns.
        """
        grad_x[:, :, held:].fill(0)
        outputs, shifted = self._blocking.tiling.tile_width, self._shifted(grad_rows)
        for k in range(outputs):
            pixels = shifted[:, :, :, k].transpose(0, 2, 3, 1, 4)
            add_tiles(pixels, outputs * self._step, grad_x[:, :, k * self._step :])

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""
        np.copyto(grad_weight, np.add.reduce(transformed, axis=0).transpose(3, 1, 0, 2))

    def _shifted(self, rows: Array) -> Array:
        """``rows`` of V as [c, j, h, k, t, n]."""
        strip = self._blocking.tiles, self._blocking.images
        shape = *rows.shape[:2], -1, self._blocking.tiling.depth, *strip
        return rows.reshape(shape).transpose(2, 3, 1, 0, 4, 5)


class Im2col(TiledIm2col):
    """Tiles of one output: products are rows of the output ``result`` (O, oh, ow, N), so it is the
    epilogue (``convolution.py``) too, with nothing to do for a piece.
    """

    def _make_products(self, rows: int) -> Array:
        geometry = self._blocking.geometry
        shape = geometry.filters, *geometry.output_size, geometry.count
        self.result = self._buffers.images(shape)
        self.grad_products = _as_products(self.result)
        return self.grad_products

    def products(self, piece: Piece) -> Array:
        return self._products[:, piece.output_rows]

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        products = self.grad_products[:, piece.output_rows]
        return products, products

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, held: int) -> None:
        pixels = self._shifted(grad_rows)[:, :, :, 0].transpose(0, 2, 3, 1, 4)
        fold(pixels, self._step, grad_x, held)

    def take(self, piece: Piece) -> None:
        pass

    def begin_backward(self, grad_output: Array) -> None:
        if not grad_output.swapaxes(0, 1).flags.c_contiguous:  # not stored row by row
            copy = self._buffers.scratch("gradient", self.result)
            np.copyto(copy, grad_output)
            grad_output = copy
        self.grad_products = _as_products(grad_output)

    def give_gradient(self, piece: Piece) -> None:
        pass


def _as_products(images: Array) -> Array:
    """``images`` (O, oh, ow, N) that are stored row by row, as (1, oh, O, ow*N), a view."""
    filters, height, width, count = images.shape
    return images.swapaxes(0, 1).reshape(1, height, filters, width * count)
