"""Epilogues of a convolution (``steps.py``) in portable arithmetic.

Pieces are in binary64; what layers pass to each other has the type of the network. The bias, and
the ReLU after a pooling, are applied to a piece when it is pooled, and so small; for the same
reason gradients are rounded to their grid, and summed for the bias, before they are unpooled.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.fusion import FusedPool, Pooling, pooled_index
from distcnn.nn.kernels.steps import Algorithm, Epilogue
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Shape
from distcnn.portable.grids import round_by


class ExactEpilogue(Epilogue, Protocol):
    """``Epilogue``, which also adds the bias and rounds the gradient."""

    grad_bias: NDArray[np.float64]
    """The exact sum of the rounded gradients of all pieces so far, (O,)."""

    def begin_forward(self, bias: Array) -> None:
        """Take the bias (O,) for the pieces that follow."""

    def round_with(self, anchor: float) -> None:
        """Take the anchor to round the gradients of the pieces that follow."""


class _Rounding:
    """What both epilogues do with the bias and the gradient."""

    def __init__(self, result: Array) -> None:
        self.result = result
        self.grad_bias = np.zeros(len(result))

    def begin_forward(self, bias: Array) -> None:
        self._bias = bias.reshape(-1, 1, 1, 1)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output
        self.grad_bias.fill(0)

    def round_with(self, anchor: float) -> None:
        self._anchor = anchor

    def _round(self, grads: Array) -> None:
        """Round ``grads`` (O, rows, columns, N), and add them to the bias's gradient."""
        round_by(self._anchor, grads, grads)
        self.grad_bias += grads.sum(axis=(1, 2, 3))


class ExactWholeImages(_Rounding):
    """The output as whole images, copied from the tiles and back."""

    def __init__(self, algorithm: Algorithm, images: Array, inner: Buffers) -> None:
        super().__init__(images)
        self._algorithm, self._inner = algorithm, inner

    def take(self, piece: Piece) -> None:
        images = self.result[piece.output_index]
        copy_tiles(images, self._algorithm.tiled(piece), to_images=True)
        images += self._bias

    def give_gradient(self, piece: Piece) -> None:
        tiled, grads = self._algorithm.tiled(piece), self._grad_output[piece.output_index]
        rounded = self._inner.scratch("rounded", grads, np.float64)
        np.copyto(rounded, grads)
        self._round(rounded)
        if grads.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(rounded, tiled, to_images=False)


class ExactFusedPool(_Rounding):
    """The output pooled, and rectified if a ReLU follows the pooling. The windows of a piece are
    compared in the network's type: with half the bytes of binary64, that is twice as fast.
    Gradients have no more bits than float32, so on their grid they are exact in it too.
    """

    def __init__(
        self,
        pooling: Pooling,
        shape: Shape,
        tiled: Mapping[Piece, Array],
        buffers: Buffers,
        inner: Buffers,
    ) -> None:
        self._tiled = {
            piece: (exact, buffers.scratch("tiled", exact, buffers.dtype))
            for piece, exact in tiled.items()
        }
        narrow = {piece: copy for piece, (_, copy) in self._tiled.items()}
        self._pool = FusedPool(replace(pooling, rectify=False), shape, narrow, buffers)
        super().__init__(self._pool.result)
        self._rectify, self._window, self._inner = pooling.rectify, pooling.window, inner
        self._is_positive = buffers.like(self.result, np.bool_)
        self._rounded = buffers.like(self.result)

    def take(self, piece: Piece) -> None:
        exact, narrow = self._tiled[piece]
        np.copyto(narrow, exact, casting="same_kind")
        self._pool.take(piece)
        index = pooled_index(piece, self._window)
        pooled = self.result[index]
        pooled += self._bias
        if self._rectify:
            np.maximum(pooled, 0, out=pooled)
            np.greater(pooled, 0, out=self._is_positive[index])

    def begin_backward(self, grad_output: Array) -> None:
        super().begin_backward(grad_output)
        self._pool.begin_backward(self._rounded)

    def give_gradient(self, piece: Piece) -> None:
        index = pooled_index(piece, self._window)
        grads = self._grad_output[index]
        rounded = self._inner.scratch("rounded", grads, np.float64)
        if self._rectify:
            np.multiply(grads, self._is_positive[index], out=rounded)
        else:
            np.copyto(rounded, grads)
        self._round(rounded)
        np.copyto(self._rounded[index], rounded, casting="same_kind")
        self._pool.give_gradient(piece)
        exact, narrow = self._tiled[piece]
        np.copyto(exact, narrow)
