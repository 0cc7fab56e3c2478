"""Epilogues of a convolution (``steps.py``) in portable arithmetic.

Pieces come in binary64, and layers pass each other arrays of the network's type. A piece is
converted first; the bias is added, and windows are compared, in the network's type, because half
the bytes take half the time. Gradients are rounded to their grid, and summed for the bias, before
they are unpooled. They have no more bits than float32, so on their grid they are exact in it too.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.fusion import FusedPool, Pooling
from distcnn.nn.kernels.steps import Epilogue
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Shape
from distcnn.portable.grids import anchor, bound_of, parts, round_by


class ExactEpilogue(Epilogue, Protocol):
    """``Epilogue``, which also adds the bias and rounds the gradient."""

    grad_bias: NDArray[np.float64]
    """The exact sum of the rounded gradients, (O,): complete after the last piece."""

    def begin_forward(self, bias: Array) -> None:
        """Take the bias (O,) for the pieces that follow."""

    def round_gradient(self, bits: int) -> float:
        """Round the gradient that ``begin_backward`` took to its grid of ``bits``, now or piece by
        piece; return its bound.
        """


class _WithBias:
    """What both epilogues do with the bias."""

    def __init__(self, filters: int, tiled: Mapping[Piece, Array], buffers: Buffers) -> None:
        self._buffers = buffers
        self.grad_bias = np.zeros(filters)
        self._narrow = {
            piece: (exact, buffers.scratch("tiled", exact, buffers.dtype))
            for piece, exact in tiled.items()
        }

    def begin_forward(self, bias: Array) -> None:
        self._bias = bias.reshape(-1, 1, 1, 1)

    def _with_bias(self, piece: Piece) -> Array:
        """The piece's output in the network's type, [k, o, r, t, n]."""
        exact, narrow = self._narrow[piece]
        np.copyto(narrow, exact, casting="same_kind")
        narrow += self._bias
        return narrow


class ExactWholeImages(_WithBias):
    """The output as whole images, copied from the tiles and back."""

    def __init__(self, images: Array, tiled: Mapping[Piece, Array], buffers: Buffers) -> None:
        super().__init__(len(images), tiled, buffers)
        self.result = images

    def take(self, piece: Piece) -> None:
        copy_tiles(self.result[piece.output_index], self._with_bias(piece), to_images=True)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output
        self.grad_bias.fill(0)

    def round_gradient(self, bits: int) -> float:
        bound = bound_of(self._grad_output)
        self._anchor = anchor(bound, bits)
        return bound

    def give_gradient(self, piece: Piece) -> None:
        tiled, grads = self._narrow[piece][0], self._grad_output[piece.output_index]
        if grads.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(grads, tiled, to_images=False)
        round_by(self._anchor, tiled, tiled)
        self.grad_bias += tiled.sum(axis=(0, 2, 3, 4))


class ExactFusedPool(_WithBias):
    """The output pooled, and rectified if a ReLU follows the pooling (``FusedPool``)."""

    def __init__(
        self, pooling: Pooling, shape: Shape, tiled: Mapping[Piece, Array], buffers: Buffers
    ) -> None:
        super().__init__(shape[0], tiled, buffers)
        narrow = {piece: copy for piece, (_, copy) in self._narrow.items()}
        self._pool = FusedPool(pooling, shape, narrow, buffers)
        self.result = self._pool.result
        self._rectify = pooling.rectify
        self._grads = buffers.like(self.result)
        self._is_positive = buffers.like(self.result, np.bool_)

    def take(self, piece: Piece) -> None:
        self._with_bias(piece)  # which is what the pool compares
        self._pool.take(piece)

    def begin_backward(self, grad_output: Array) -> None:
        if self._rectify:
            np.greater(self.result, 0, out=self._is_positive)
            np.multiply(grad_output, self._is_positive, out=self._grads)
        else:
            np.copyto(self._grads, grad_output)
        self._pool.begin_backward(self._grads)

    def round_gradient(self, bits: int) -> float:
        bound = bound_of(self._grads)
        c = anchor(bound, bits)
        self.grad_bias.fill(0)
        for part in parts(self._grads):
            rounded = self._buffers.scratch("rounded", part, np.float64)
            round_by(c, part, rounded)
            self.grad_bias += rounded.sum(axis=(1, 2, 3))
            np.copyto(part, rounded, casting="same_kind")
        return bound

    def give_gradient(self, piece: Piece) -> None:
        self._pool.give_gradient(piece)
        exact, narrow = self._narrow[piece]
        np.copyto(exact, narrow)
